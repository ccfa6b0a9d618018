import { readdirSync, readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import fc from "fast-check";
import t from "tap";
import { parseAtError } from "../../../atplatform/protocol/at-error.js";
import { normaliseCommand, verbOf } from "../../../atplatform/protocol/command-line.js";
import { parseNotification } from "../../../atplatform/protocol/notification.js";
import { ResponseFramer, type Frame } from "../../../atplatform/protocol/response-framer.js";
import { CommandInvalid, type VerbCodec } from "../../../atplatform/protocol/verb-codec.js";
import { VERBS } from "../../../atplatform/protocol/verbs.js";
import { utf8 } from "../../../core/bytes.js";
import { cutAt } from "../../fixtures/cut.js";
import { vectors } from "../../fixtures/vectors.js";

/** What an atServer makes of a line: what the codec formats of what it has read, or `refused`. */
function read(text: string): string {
  const line = normaliseCommand(text);
  const verb = verbOf(line);
  if (!verb) return "refused";
  const codec = VERBS[verb] as VerbCodec<unknown>;
  try {
    return codec.format(codec.parse(line));
  } catch (error) {
    if (error instanceof CommandInvalid && error.atCode === "AT0003") return "refused";
    throw error;
  }
}

/** Frames bytes cut at the places, and takes the answer to `pol` where it is expected. */
function frame(
  chunks: readonly { readonly bytes: Uint8Array; readonly afterPol: boolean }[],
  mode: "command" | "monitor",
  cuts: readonly number[],
): Frame[] {
  const framer = new ResponseFramer({ maxBytes: 100_000, mode });
  const frames = chunks.flatMap(({ bytes, afterPol }) => {
    if (afterPol) framer.expectHandshake();
    return cutAt(
      bytes,
      cuts.filter((at) => at < bytes.length),
    ).flatMap((chunk) => framer.push(chunk));
  });
  return [...frames, ...framer.end()];
}

/** The frame that one thing a server wrote stands for; none for a greeting. */
function expectedFrame(wire: string): Frame[] {
  if (wire === "@") return [];
  if (/^@[^@:]+@$/u.test(wire)) return [{ type: "handshake", atSign: wire.slice(0, -1) }];
  const [, type, blank = "", body = ""] = /^(data|error|notification):( ?)([^]*)\n(?:@|@[^@]+@)?$/u.exec(wire) ?? [];
  if (type === "notification") return [{ type, body }];
  if (type === "data" || type === "error") return [{ type, body: blank + body }];
  throw new Error(`no expectation of ${wire}`);
}

const unescape = (text: string): string =>
  text.replaceAll(/\\([nr\\])/gu, (_, char: string) => ({ n: "\n", r: "\r" })[char] ?? "\\");

const folder = new URL("../../transcripts/", import.meta.url);
const files = readdirSync(folder).filter((name) => name.endsWith(".txt"));

t.test("the dialogues", async (t) => {
  t.equal(files.length, 7);
  for (const file of files) {
    t.test(file, async (t) => {
      const text = readFileSync(new URL(file, folder), "utf8");
      const mode = text.includes("# mode: monitor") ? "monitor" : "command";
      const lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
      const chunks: { bytes: Uint8Array; afterPol: boolean }[] = [];
      const expected: Frame[] = [];
      let last = "";
      for (const line of lines) {
        const [, who, said = ""] = /^(C|C\*|S):(?: (.*))?$/u.exec(line) ?? [];
        if (who === "C") t.equal(read(`${said}\r\n`), said, said.slice(0, 60));
        else if (who === "C*") t.equal(read(`${said}\n`), "refused", said.slice(0, 60));
        else if (who === "S") {
          const wire = unescape(said);
          chunks.push({ bytes: utf8(wire), afterPol: last === "pol" });
          expected.push(...expectedFrame(wire));
        } else t.fail(`unreadable: ${line}`);
        last = said;
      }
      t.ok(expected.length > 0);
      fc.assert(fc.property(fc.array(fc.nat(600)), (cuts) => isDeepStrictEqual(frame(chunks, mode, cuts), expected)));
      for (const { type, ...rest } of expected) {
        if (type === "notification" && "body" in rest) t.doesNotThrow(() => parseNotification(rest.body));
        if (type === "error" && "body" in rest) t.match(parseAtError(rest.body).code, /^AT\d{4}$/u);
      }
    });
  }
});

interface Recorded {
  readonly sessions: readonly {
    readonly sdk: string;
    readonly lines: readonly {
      readonly c: string;
      readonly at: string;
      readonly dir: ">" | "<";
      readonly text: string;
      readonly serverGrammar?: false;
    }[];
  }[];
}

t.test("recorded sessions of other SDKs", async (t) => {
  for (const { sdk, lines } of vectors<Recorded>("transcripts.json").sessions) {
    t.test(sdk, async (t) => {
      const spoken = lines.filter(({ at }) => at !== "directory");
      // What at_c and its daemon send in another order or with other defaults is read all the same, but written our way.
      for (const { text, serverGrammar } of spoken.filter(({ dir }) => dir === ">")) {
        const again = read(`${text}\r\n`);
        if (serverGrammar === false) t.equal(again, "refused", text.slice(0, 60));
        else t.equal(read(again), again, text.slice(0, 60));
        if (serverGrammar !== false && !text.startsWith("notify:") && !text.startsWith("from:")) t.equal(again, text);
      }
      for (const connection of new Set(spoken.map(({ c }) => c))) {
        const sent = spoken.filter(({ c, dir }) => c === connection && dir === "<").map(({ text }) => text);
        const isMonitor = spoken.some(({ c, text }) => c === connection && text.startsWith("monitor"));
        const chunks = ["@", ...sent].map((text) => ({ bytes: utf8(text), afterPol: false }));
        const frames = frame(chunks, isMonitor ? "monitor" : "command", [1, 5, 40]);
        t.same(frames, sent.flatMap(expectedFrame), `${connection}: ${sent.length} lines of the server`);
      }
    });
  }
});
