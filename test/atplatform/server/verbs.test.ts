import t from "tap";
import { WireWorld } from "../../fixtures/wire-world.js";

// What a transcript cannot say: sizes, counts, what holds whatever is sent. The rest is in test/transcripts/server/.

const settings = { statsNotificationMs: -1 };

async function open(dir: string): Promise<WireWorld> {
  const world = await WireWorld.open(dir, { settings });
  await world.add("@alice");
  await world.activate("@alice");
  return world;
}

t.test("2.3: however long a reply is, its prompt does not come alone", async (t) => {
  await using world = await open(t.testdir());
  const A = await world.pkam("@alice");
  for (const extra of [0, 1, 5, 6, 7, 8, 9, 100]) {
    const value = "v".repeat(16_384 - "data:\n@alice@".length + extra);
    t.match(await A.data(`update:long.wavi@alice ${value}`), /^\d+$/u);
    A.send("llookup:long.wavi@alice\n");
    const chunks: string[] = [];
    while (!chunks.join("").endsWith("\n@alice@")) chunks.push(await A.chunk());
    t.equal(chunks.join(""), `data:${value}\n@alice@`);
    t.ok((chunks.at(-1)?.length ?? 0) > "\n@alice@".length, "the last record holds more than the prompt");
  }
});

t.test("3.12: a sync page holds 25 entries, and a filter does not make it empty", async (t) => {
  await using world = await open(t.testdir());
  const A = await world.pkam("@alice");
  for (let i = 0; i < 30; i += 1) await A.data(`update:bulk${i}.buzz@alice v`);
  await A.data("update:last.wavi@alice v");
  const pages = async (regex: string): Promise<number[]> => {
    const sizes: number[] = [];
    let from = -1;
    for (;;) {
      const page = JSON.parse(await A.data(`sync:from:${from}:limit:100${regex}`)) as { commitId: number }[];
      if (page.length === 0) return sizes;
      sizes.push(page.length);
      from = page.at(-1)?.commitId ?? from;
    }
  };
  t.same(await pages(""), [25, 2 + 30 + 1 - 25], "publickey and signing_publickey, the many, the last");
  t.same(await pages(":\\.wavi"), [2 + 1]);
});

t.test("3.22: stats answers every number, about what there is", async (t) => {
  await using world = await open(t.testdir());
  const A = await world.pkam("@alice");
  await A.data("notify:@alice:n.wavi@alice:v");
  const all = JSON.parse(await A.data("stats")) as { id: string; value: unknown }[];
  t.same(
    all.map(({ id }) => Number(id)),
    Array.from({ length: 15 }, (_, at) => at + 1),
  );
  const valueOf = (id: number): unknown => all[id - 1]?.value;
  t.equal(valueOf(1), "1");
  t.ok(Number(valueOf(4)) > 0);
  t.match(JSON.parse(String(valueOf(11))), { total: 1, type: { received: 1 }, status: { delivered: 1 } });
  t.same(JSON.parse(String(valueOf(15))), {
    "public:signing_publickey@alice": [0, "+"],
    "public:publickey@alice": [1, "*"],
  });
});
