import fc from "fast-check";
import t from "tap";
import { utf8 } from "../../core/bytes.js";
import { LineFramer } from "../../core/line-framer.js";
import { cutAt } from "../fixtures/cut.js";

const texts = (lines: readonly Buffer[]): string[] => lines.map((line) => line.toString("utf8"));

t.test("LineFramer", async (t) => {
  t.test("splits at LF and takes off one CR", async (t) => {
    const framer = new LineFramer({ maxBytes: 16 });
    t.same(texts(framer.push(utf8("a\r\n\nb\r\r\nc"))), ["a", "", "b\r"]);
    t.same(texts(framer.push(utf8("d\n"))), ["cd"]);
  });

  t.test("gives the same lines however the bytes are cut", async () => {
    const wire = utf8("°C=21\r\n\nlonger than ten\nshort\n0123456789\r\n");
    const whole = ["°C=21", "", "short", "0123456789"];
    fc.assert(
      fc.property(fc.array(fc.nat(wire.length)), (cuts) => {
        const framer = new LineFramer({ maxBytes: 10, onLimit: "drop" });
        const lines = texts(cutAt(wire, cuts).flatMap((chunk) => framer.push(chunk)));
        return JSON.stringify(lines) === JSON.stringify(whole) && framer.dropped === 1;
      }),
    );
  });

  t.test("refuses a line over its limit instead of holding it, and goes on with the next", async (t) => {
    const framer = new LineFramer({ maxBytes: 4 });
    t.throws(() => framer.push(utf8("123456")), { code: "LIMIT_EXCEEDED" });
    t.throws(() => framer.push(utf8("12345\n")), { code: "LIMIT_EXCEEDED" });
    t.same(texts(framer.push(utf8("1234\r\n"))), ["1234"]);
  });

  t.test("takes a line that comes byte by byte", async (t) => {
    const framer = new LineFramer({ maxBytes: 1000 });
    const lines = [...utf8(`${"x".repeat(1000)}\n`)].flatMap((byte) => framer.push(Uint8Array.of(byte)));
    t.same(texts(lines), ["x".repeat(1000)]);
  });

  t.test("forgets a begun line on reset", async (t) => {
    const framer = new LineFramer({ maxBytes: 16 });
    framer.push(utf8("half"));
    framer.reset();
    t.same(texts(framer.push(utf8("whole\n"))), ["whole"]);
  });
});
