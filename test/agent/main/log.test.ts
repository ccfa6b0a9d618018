import { inspect } from "node:util";
import t from "tap";
import { openLog, type LogForm } from "../../../agent/log.js";
import { EdgeError } from "../../../core/errors.js";
import { Secret } from "../../../core/secret.js";

function logged(form: LogForm, use: (log: ReturnType<typeof openLog>) => void): string[] {
  const lines: string[] = [];
  use(openLog({ level: "info", form, write: (line) => lines.push(line) }));
  return lines;
}

t.test("the log", async (t) => {
  t.test("writes one JSON object a line, with the context of its children", async (t) => {
    const [line = "", ...more] = logged("json", (log) => {
      log.child({ part: "uplink" }).child({ seq: 3 }).info({ tookMs: 12 }, "sent");
      log.debug({}, "not at this level");
    });
    t.same(more, []);
    t.ok(line.endsWith("\n"));
    t.match(JSON.parse(line), { level: 30, part: "uplink", seq: 3, tookMs: 12, msg: "sent", time: /^20\d\d-.*Z$/ });
  });

  t.test("puts the priority of syslog before each line under the journal", async (t) => {
    const lines = logged("journal", (log) => {
      log.info({}, "i");
      log.warn({}, "w");
      log.error({}, "e");
    });
    t.same(
      lines.map((line) => line.slice(0, 3)),
      ["<6>", "<4>", "<3>"],
    );
  });

  t.test("changes its level for its children, too, and shows each line to whom it may concern", async (t) => {
    const kept: string[] = [];
    const log = openLog({ level: "info", form: "terminal", write: () => undefined, keep: (line) => kept.push(line) });
    const child = log.child({ part: "a" });
    child.debug({}, "one");
    log.setLevel("debug");
    child.debug({}, "two");
    log.setLevel("error");
    child.warn({}, "three");
    t.match(
      kept.map((line) => JSON.parse(line) as unknown),
      [{ part: "a", msg: "two" }],
    );
    t.equal(kept.length, 1);
  });

  t.test("is readable on a terminal", async (t) => {
    const [line = ""] = logged("terminal", (log) =>
      log.child({ driver: "vent" }).warn({ why: "gone away", n: 2 }, "driver failed"),
    );
    t.match(line, /^\d\d:\d\d:\d\d\.\d{3} warn {2}driver failed driver=vent why="gone away" n=2\n$/u);
  });

  t.test("keeps a line a line, whatever stands in a message or field", async (t) => {
    for (const form of ["json", "journal", "terminal"] as const) {
      const [line = ""] = logged(form, (log) => log.info({ text: "a\nb", err: new EdgeError("c\nd") }, "x"));
      t.equal(line.indexOf("\n"), line.length - 1);
    }
  });

  t.test("tells an error with its code and its causes, and the stack of a fault of ours only", async (t) => {
    const [known = "", unknown = ""] = logged("json", (log) => {
      log.error({ err: new EdgeError("outer", { cause: new EdgeError("inner") }) }, "x");
      log.error({ err: new TypeError("bug") }, "x");
    });
    t.match(JSON.parse(known), { err: { code: "EDGE_ERROR", message: "outer", cause: { message: "inner" } } });
    t.notMatch(known, "stack");
    t.match(JSON.parse(unknown), { err: { name: "TypeError", stack: /log\.test/ } });
  });

  t.test("shows no secret: by name of the field, in a Secret, in a URL, in bytes, at any depth", async (t) => {
    const hidden = "hunter2";
    const fields = {
      password: hidden,
      cramSecret: hidden,
      keys: { selfEncryptionKey: hidden, deeper: { apkamSymmetricKey: hidden } },
      list: [{ privateKey: hidden }],
      wrapped: new Secret(hidden),
      url: `mqtts://user:${hidden}@broker`,
      err: new EdgeError(`cannot reach mqtt://user:${hidden}@broker`),
      bytes: Buffer.from(hidden),
    };
    for (const form of ["json", "journal", "terminal"] as const) {
      const text = logged(form, (log) => log.child(fields).error(fields, "x")).join("");
      t.notMatch(text, hidden);
      t.notMatch(text, Buffer.from(hidden).toString("base64"));
      t.match(text, "mqtts://user:[secret]@broker");
    }
    t.notMatch(inspect(fields.wrapped), hidden);
  });
});
