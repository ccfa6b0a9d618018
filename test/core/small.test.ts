import { inspect } from "node:util";
import fc from "fast-check";
import t from "tap";
import { backoff } from "../../core/backoff.js";
import { equalSecrets, fromBase64, fromUtf8, utf8 } from "../../core/bytes.js";
import { codeOf, DeviceGone, EdgeError } from "../../core/errors.js";
import { Secret } from "../../core/secret.js";
import { ManualClock } from "../fixtures/manual-clock.js";

t.test("base64 is decoded only when alphabet, length and padding are right", async (t) => {
  fc.assert(fc.property(fc.uint8Array(), (bytes) => fromBase64(Buffer.from(bytes).toString("base64")).equals(bytes)));
  for (const wrong of ["A", "AA", "AAA", "AA=A", "A===", "AAAA=", "AA_-", " AAAA", "AAAA\n", "AAAA AAAA"]) {
    t.throws(() => fromBase64(wrong), { code: "SYNTAX_INVALID" }, JSON.stringify(wrong));
  }
  t.equal(fromBase64("").length, 0);
});

t.test("text is decoded only from whole UTF-8", async (t) => {
  fc.assert(fc.property(fc.string({ unit: "grapheme" }), (text) => fromUtf8(utf8(text)) === text));
  t.throws(() => fromUtf8(Buffer.from([0xc3])), { code: "SYNTAX_INVALID" });
  t.equal(fromUtf8(Buffer.from([0xef, 0xbb, 0xbf, 0x61])), "\uFEFFa", "a byte order mark is kept");
});

t.test("equalSecrets is true for equal bytes only", async (t) => {
  fc.assert(
    fc.property(fc.uint8Array(), fc.uint8Array(), (a, b) => equalSecrets(a, b) === (Buffer.compare(a, b) === 0)),
  );
  t.ok(equalSecrets(utf8("same"), utf8("same")));
});

t.test("a secret shows itself to reveal only", async (t) => {
  const secret = new Secret("hunter2");
  for (const shown of [
    String(secret),
    secret.toString(),
    JSON.stringify({ secret }),
    inspect({ secret }, { depth: 9 }),
  ]) {
    t.notMatch(shown, /hunter2/u);
    t.match(shown, /\[secret\]/u);
  }
  t.equal(secret.reveal(), "hunter2");
});

t.test("backoff stays below a cap that doubles up to its maximum", async (t) => {
  const waits = backoff({ firstMs: 500, maxMs: 60_000, random: () => 0.999_999 });
  t.same(
    Array.from({ length: 10 }, () => waits.next().value),
    [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000],
  );
  t.equal(backoff({ firstMs: 500, maxMs: 1000, random: () => 0 }).next().value, 0);
});

t.test("an error carries its code, its name and its cause", async (t) => {
  const error = new DeviceGone("port closed", { cause: new Error("EIO") });
  t.match(error, { code: "DEVICE_GONE", message: "port closed", cause: { message: "EIO" } });
  t.ok(error instanceof EdgeError);
  t.equal(codeOf(error), "DEVICE_GONE");
  t.equal(codeOf(new Error("plain")), undefined);
  t.equal(codeOf(undefined), undefined);
});

t.test("ManualClock wakes sleepers in the order of their time, and an abort ends a sleep", async (t) => {
  const clock = new ManualClock(1000);
  const order: string[] = [];
  const controller = new AbortController();
  void clock.sleep(30, controller.signal).then(() => order.push("late"));
  void clock.sleep(10, controller.signal).then(async () => {
    order.push(`early at ${clock.now()}`);
    await clock.sleep(10, controller.signal);
    order.push("again");
  });
  const aborted = t.rejects(clock.sleep(15, AbortSignal.abort(new Error("stop"))), { message: "stop" });
  await clock.advance(29);
  t.same(order, ["early at 1010", "again"]);
  await clock.advance(1);
  t.same(order, ["early at 1010", "again", "late"]);
  t.equal(clock.sleeping, 0);
  await aborted;
});
