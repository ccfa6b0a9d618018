import { appendFileSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import t from "tap";
import { AuditLog } from "../../../agent/audit/audit-log.js";
import { type AuditHead, ChainCheck, GENESIS } from "../../../agent/audit/chain.js";
import { auditedArgs } from "../../../agent/audit/redact.js";
import { silentLog } from "../../../core/log.js";

const opened = (folder: string, maxBytes = 1_000_000): AuditLog =>
  new AuditLog({ folder, maxBytes, nowMs: () => 1_800_000_000_000, log: silentLog });

/** All lines, page by page. */
async function all(audit: AuditLog, pageChars = 500): Promise<string[]> {
  const lines: string[] = [];
  const { first, head } = await audit.page(1, 1);
  for (let next = first; next <= head.n;) {
    const page = await audit.page(next, pageChars);
    lines.push(...page.lines);
    next = page.from + page.lines.length;
  }
  return lines;
}

function faultOf(lines: readonly string[], known?: AuditHead): string | undefined {
  const check = new ChainCheck(known);
  for (const line of lines) check.add(line);
  return check.fault();
}

async function filled(folder: string, entries: number, maxBytes?: number): Promise<AuditLog> {
  const audit = opened(folder, maxBytes);
  for (let n = 1; n <= entries; n++) await audit.append("command", { caller: "@grower", n2: n });
  return audit;
}

t.test("the audit log", async (t) => {
  t.test("keeps what was appended, in order, and goes on after the next start", async (t) => {
    const folder = join(t.testdir(), "audit");
    {
      await using audit = await filled(folder, 3);
      t.match(await audit.page(1, 10_000), { from: 1, first: 1, head: { n: 3 }, lines: { length: 3 } });
    }
    await using audit = await filled(folder, 2);
    const lines = await all(audit);
    t.match(
      lines.map((line) => JSON.parse(line) as unknown),
      [1, 2, 3, 1, 2].map((n2, at) => ({ n: at + 1, kind: "command", caller: "@grower", n2, at: 1_800_000_000_000 })),
    );
    t.equal(faultOf(lines), undefined);
    for (const name of readdirSync(folder)) t.equal(statSync(join(folder, name)).mode & 0o777, 0o600);
  });

  t.test("takes many at once in the order in which they came", async (t) => {
    await using audit = opened(t.testdir());
    await Promise.all(Array.from({ length: 200 }, (_, n) => audit.append("command", { n2: n })));
    const lines = await all(audit);
    t.same(
      lines.map((line) => (JSON.parse(line) as { n2: number }).n2),
      Array.from({ length: 200 }, (_, n) => n),
    );
    t.equal(faultOf(lines), undefined);
  });

  t.test("gives pages of bounded size, one line at least", async (t) => {
    await using audit = await filled(t.testdir(), 10);
    const [line = ""] = (await audit.page(4, 1)).lines;
    t.match(JSON.parse(line), { n: 4 });
    t.equal((await audit.page(4, 3 * line.length)).lines.length, 3);
    t.same((await audit.page(11, 1000)).lines, []);
  });

  t.test("is bounded: the oldest file goes, a line says so, and the rest can be verified", async (t) => {
    const folder = t.testdir();
    await using audit = await filled(folder, 400, 16_384);
    const files = readdirSync(folder);
    t.equal(files.length, 4);
    const bytes = files.reduce((sum, name) => sum + statSync(join(folder, name)).size, 0);
    t.ok(bytes <= 16_384 + 4 * 400, `${bytes} bytes`);
    const lines = await all(audit);
    const { first, head } = await audit.page(1, 1);
    t.ok(first > 1);
    t.equal(lines.length, head.n - first + 1);
    t.equal(faultOf(lines), undefined);
    t.match(faultOf(lines.slice(1)), /begins at|does not follow/u, "one line less at the start is seen");
    const declared = lines.filter((line) => (JSON.parse(line) as { kind: string }).kind === "rotated");
    t.ok(declared.length > 0);
    const without = lines.filter((line) => !declared.includes(line));
    t.not(faultOf(without), undefined);
  });

  t.test("goes on over a line that a power cut has left half written", async (t) => {
    const folder = t.testdir();
    await (await filled(folder, 2))[Symbol.asyncDispose]();
    const [name = ""] = readdirSync(folder);
    appendFileSync(join(folder, name), '{"n":3,"prev":"00');
    await using audit = await filled(folder, 1);
    const lines = await all(audit);
    t.equal(lines.length, 3);
    t.equal(faultOf(lines), undefined);
  });

  t.test("says when it cannot be written, keeps the lines, and writes them when it can", async (t) => {
    const home = t.testdir();
    const folder = join(home, "audit");
    await using audit = opened(folder);
    writeFileSync(folder, "in the way");
    await audit.append("command", { n2: 1 });
    t.match(audit.health(), [{ state: "degraded", counters: { waiting: 1 } }]);
    rmSync(folder);
    await audit.append("command", { n2: 2 });
    t.match(audit.health(), [{ state: "ok", counters: { waiting: 0, entries: 2 } }]);
    t.equal(faultOf(await all(audit)), undefined);
  });
});

t.test("verification", async (t) => {
  const folder = t.testdir();
  const audit = await filled(folder, 20);
  const lines = await all(audit);
  const { head } = await audit.page(1, 1);
  await audit[Symbol.asyncDispose]();

  t.test("finds any changed byte, removed line and moved line", async (t) => {
    fc.assert(
      fc.property(fc.nat(lines.length - 2), fc.nat(1000), fc.integer({ min: 1, max: 255 }), (at, position, flip) => {
        const line = Buffer.from(lines[at] ?? "");
        const index = position % line.length;
        line[index] = (line[index] ?? 0) ^ flip;
        return faultOf(lines.with(at, line.toString("latin1"))) !== undefined;
      }),
    );
    for (let at = 0; at < lines.length - 1; at++) {
      t.not(faultOf(lines.toSpliced(at, 1)), undefined, `without line ${at + 1}`);
      const moved = lines.toSpliced(at, 1).toSpliced(at + 1, 0, lines[at] ?? "");
      t.not(faultOf(moved), undefined, `line ${at + 1} after the next`);
    }
    t.not(faultOf(lines.toSpliced(5, 0, lines[4] ?? "")), undefined, "a line twice");
  });

  t.test("finds a cut end, a changed last line and another log, by what was seen before", async (t) => {
    t.equal(faultOf(lines, head), undefined);
    t.equal(faultOf(lines, { n: 7, hash: (JSON.parse(lines[7] ?? "") as { prev: string }).prev }), undefined);
    t.match(faultOf(lines.slice(0, -1), head), /ended at 20 when last seen, and now at 19/u);
    t.match(faultOf([], head), /now at 0/u);
    const last = lines.at(-1)?.replace("@grower", "@grown") ?? "";
    t.equal(faultOf(lines.with(-1, last)), undefined, "which nothing else can tell");
    t.match(faultOf(lines.with(-1, last), head), /20 is not what it was/u);
  });

  t.test("finds what was done to the file itself, after the agent has gone on", async (t) => {
    const [name = ""] = readdirSync(folder);
    const path = join(folder, name);
    writeFileSync(path, readFileSync(path, "utf8").replace('"n2":5}', '"n2":6}'));
    await using later = await filled(folder, 1);
    t.match(faultOf(await all(later)), /6 does not follow from 5/u);
  });

  t.test("takes an empty log, and refuses a line that is no entry", async (t) => {
    t.equal(faultOf([], GENESIS), undefined);
    for (const line of ["", "7", "null", "{}", "nonsense"]) t.match(faultOf([line]), /no audit entry/u);
  });
});

t.test("arguments are kept without secrets, and short", async (t) => {
  const schema = { properties: { code: { writeOnly: true }, list: { items: { writeOnly: true } } } };
  t.same(auditedArgs({ percent: 4, password: "x", code: "1234", list: ["a"], inner: { token: "t", n: 1 } }, schema), {
    ...{ percent: 4, password: "[secret]", code: "[secret]", list: ["[secret]"] },
    inner: { token: "[secret]", n: 1 },
  });
  t.match(auditedArgs({ text: "x".repeat(5000) }), { length: 5011, sha256: /^[0-9a-f]{64}$/u });
});
