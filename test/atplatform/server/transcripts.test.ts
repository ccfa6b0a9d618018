import { readdirSync, readFileSync } from "node:fs";
import t from "tap";
import { parseTranscript, unescapeBytes } from "../../fixtures/transcript.js";
import { TranscriptPlayer } from "../../fixtures/transcript-player.js";

// Every case of the specification's section 9 and every trap of its section 8: test/transcripts/server/.

const CASES = 116;
const TRAPS = 67;
const root = new URL("../../../", import.meta.url);
const folder = new URL("test/transcripts/server/", root);
const transcripts = readdirSync(folder).map((file) =>
  parseTranscript(file, readFileSync(new URL(file, folder), "utf8")),
);

t.test("each case and each trap has a transcript, or a reason why not", async (t) => {
  const readme = readFileSync(new URL("../README.md", folder), "utf8");
  const excepted = new Map<string, string>();
  for (const [, what = "", file = ""] of readme.matchAll(/^\| (C\d+|trap \d+) +\| `([^`]+)` +\| .+ \|$/gmu)) {
    excepted.set(what, file);
  }
  const shown = new Set(transcripts.flatMap(({ scenes }) => scenes.flatMap(({ shows }) => shows)));
  const wanted = [
    ...Array.from({ length: CASES }, (_, at) => `C${String(at + 1).padStart(2, "0")}`),
    ...Array.from({ length: TRAPS }, (_, at) => `trap ${at + 1}`),
  ];
  t.same(
    wanted.filter((what) => !shown.has(what) && !excepted.has(what)),
    [],
    "none is missing",
  );
  t.same(
    [...shown, ...excepted.keys()].filter((what) => !wanted.includes(what)),
    [],
    "none is made up",
  );
  for (const [what, file] of excepted) {
    t.notOk(shown.has(what), `${what} is no exception`);
    t.match(readFileSync(new URL(file, root), "utf8"), new RegExp(`t\\.test\\("${what}: `, "u"), `${what} has a test`);
  }
});

for (const transcript of transcripts) {
  t.test(transcript.file, async (t) => {
    await using player = await TranscriptPlayer.open(transcript, t.testdir());
    for (const scene of transcript.scenes) {
      await t.test(scene.title, async (t) => {
        t.ok((await player.play(scene)) > 0, "answered as written");
      });
    }
  });
}

t.test("a transcript that is wrong fails", async (t) => {
  const scenes = {
    "as it is": "U C: noop:0\nU S: data:ok\\n@",
    "another answer": "U C: noop:0\nU S: data:no\\n@",
    "another prompt": "U C: noop:0\nU S: data:ok\\n@alice@",
    "no prompt": "U C: noop:0\nU S: data:ok\\n",
    "another line end": "U C: noop:0\nU S: data:ok\\r\\n@",
    "two answers in one": "U C+: noop:0\\nnoop:0\\n\nU S: data:ok\\n@data:ok\\n@",
    "an answer too few": "U C+: noop:0\\nnoop:0\\n\nU S: data:ok\\n@",
    "an answer too many": "U C: noop:0\nU S: data:ok\\n@\nU S: data:ok\\n@",
    "no silence": "U C: noop:0\nU S: {silence}",
    "no end": "U C: noop:0\nU S: data:ok\\n@\nU S: {close}",
    "an end": "U C: @exit\nU S: {open}",
    "an end that is not told": "U C: @exit\n* wait 50 ms",
    "another UUID":
      "U C: from:@alice\nU S: data:_<id>@alice:<id:x>\\n@\nU C: from:@alice\nU S: data:_<id>@alice:${x}\\n@",
    "a number that is not": 'U C: info:brief\nU S: data:{"version":"<n>","uptimeAsMillis":<n>}\\n@',
    "never so": "U C~: noop:0\nU S: data:no\\n@",
    "a comparison": 'U C: info:brief\nU S: data:{"version":"…","uptimeAsMillis":<n:a>}\\n@\n* check ${a} < 0',
    "a stranger": "V C: noop:0",
    "a name for nothing": "U C: ${nothing}",
    "a function for nothing": "U C: ${nothing publicKey}",
    "an unknown escape": "U C+: \\q",
    "an unknown deed": "* dance",
    "an unknown connection": "V = telnet @alice",
    "a clock that does not stand": "* clock 1 s",
    "nobody listens": "V = accept @evil",
  };
  const text = Object.entries(scenes).map(([title, lines]) => `== ${title}\nU = unauth @alice\n${lines}\n`);
  const transcript = parseTranscript("wrong.txt", `fixture F0\n${text.join("")}`);
  await using player = await TranscriptPlayer.open(transcript, t.testdir(), 300);
  for (const scene of transcript.scenes) {
    if (scene.title === "as it is") t.equal(await player.play(scene), 1);
    else await t.rejects(player.play(scene), { message: /^wrong\.txt:\d+: / }, scene.title);
  }
});

t.test("a transcript that cannot be read says where", async (t) => {
  for (const [text, where] of [
    ["fixture F0\n== a\nnonsense\n", "x.txt:3"],
    ["fixture F0\n== a\nu S: data\n", "x.txt:3"],
    ["fixture F0\n== a\nU S data\n", "x.txt:3"],
    ["fixture F9\n", "x.txt:1"],
    ["fixture F0 F1\n", "x.txt:1"],
    ["clock fast\n", "x.txt:1"],
    ["idleMs=soon\n", "x.txt:1"],
    ["== a\n", "x.txt: names no fixture"],
    ["fixture F0\n", "x.txt: has no heading"],
  ] as const) {
    t.throws(() => parseTranscript("x.txt", text), { message: new RegExp(`^${where}`, "u") }, text);
  }
  const { scenes } = parseTranscript("x.txt", "fixture F0\n== C39, trap 4: two\n== trap 4 and more\n");
  t.same(
    scenes.map(({ shows }) => shows),
    [["C39", "trap 4"], []],
  );
  t.same(
    unescapeBytes("a\\n\\r\\\\\\xff🦄"),
    Buffer.concat([Buffer.from("a\n\r\\"), Buffer.of(0xff), Buffer.from("🦄")]),
  );
});
