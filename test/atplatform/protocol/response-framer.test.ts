import { readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import fc from "fast-check";
import t from "tap";
import { utf8 } from "../../../core/bytes.js";
import { closesConnection, describeCode, parseAtError } from "../../../atplatform/protocol/at-error.js";
import { ResponseFramer, type Frame } from "../../../atplatform/protocol/response-framer.js";
import { cutAt } from "../../fixtures/cut.js";

const frameAll = (wire: string, mode: "command" | "monitor" = "command"): Frame[] => {
  const framer = new ResponseFramer({ maxBytes: 1024, mode });
  return [...framer.push(utf8(wire)), ...framer.end()];
};

t.test("ResponseFramer", async (t) => {
  // What an atServer sends after `from:@alice`, `pkam:…`, `llookup:` of a key that is not there, a `delete:` that the
  // reference answers with a usage text of two lines, and a value that begins with white space and contains prompts.
  const wire =
    "@data:_4f1c@alice:7e02\n@data:success\n@alice@error:AT0015-key not found : café@alice\n@alice@" +
    "error:AT0003-Invalid syntax : Invalid syntax. syntax delete:@<atkey> \n e.g delete:phone@alice\n@alice@" +
    "data:  a@b:c@ data:x\r\n@alice@";
  const whole: readonly Frame[] = [
    { type: "data", body: "_4f1c@alice:7e02" },
    { type: "data", body: "success" },
    { type: "error", body: "AT0015-key not found : café@alice" },
    {
      type: "error",
      body: "AT0003-Invalid syntax : Invalid syntax. syntax delete:@<atkey> \n e.g delete:phone@alice",
    },
    { type: "data", body: "  a@b:c@ data:x" },
  ];

  t.test("gives the same frames however TCP cuts the bytes", async () => {
    const bytes = utf8(wire);
    fc.assert(
      fc.property(fc.array(fc.nat(bytes.length)), (cuts) => {
        const framer = new ResponseFramer({ maxBytes: 1024 });
        return isDeepStrictEqual(
          cutAt(bytes, cuts).flatMap((chunk) => framer.push(chunk)),
          whole,
        );
      }),
      { examples: [[Array.from(bytes.keys())]] },
    );
  });

  t.test("does not look back into a chunk that its owner uses again", async (t) => {
    const framer = new ResponseFramer({ maxBytes: 64 });
    const chunk = Buffer.from("@data:he");
    framer.push(chunk);
    chunk.fill("x");
    t.same(framer.push(utf8("llo\n@")), [{ type: "data", body: "hello" }]);
  });

  t.test("holds a reply back until its prompt comes, or it is told not to wait", async (t) => {
    const framer = new ResponseFramer({ maxBytes: 64 });
    t.same(framer.push(utf8("@data:ok\n")), []);
    t.ok(framer.unsettled);
    t.same(framer.settle(), [{ type: "data", body: "ok" }]);
    t.notOk(framer.unsettled);
    t.same(framer.settle(), []);
    t.same(framer.push(utf8("@data:1\n")), []);
    t.same(framer.push(utf8("@data:2\n@")), [
      { type: "data", body: "1" },
      { type: "data", body: "2" },
    ]);
  });

  t.test("gives every line of a monitor at its newline, with or without a prompt", async (t) => {
    const monitor = 'data:ok\n@alice@notification: {"id":"1"}\nnotification: {"id":"2"}\n@alice@data:ok\n';
    t.same(frameAll(`@${monitor}`, "monitor"), [
      { type: "data", body: "ok" },
      { type: "notification", body: '{"id":"1"}' },
      { type: "notification", body: '{"id":"2"}' },
      { type: "data", body: "ok" },
    ]);
    t.same(frameAll("@stream:ack 12\n"), [{ type: "stream", body: "ack 12" }]);
  });

  t.test("takes the answer to pol, which has no newline", async (t) => {
    const cuts = [0, 1, 2, 5, 8];
    for (const cut of cuts) {
      const framer = new ResponseFramer({ maxBytes: 1024 });
      framer.push(utf8("@data:proof:_s@alice:u\n@"));
      framer.expectHandshake();
      const answer = utf8("@alice@");
      const frames = cutAt(
        answer,
        [cut].filter((at) => at < answer.length),
      ).flatMap((chunk) => framer.push(chunk));
      t.same(frames, [{ type: "handshake", atSign: "@alice" }]);
      t.same(framer.push(utf8("data:x\n@alice@")), [{ type: "data", body: "x" }]);
    }
    const refused = new ResponseFramer({ maxBytes: 1024 });
    refused.expectHandshake();
    t.same(refused.push(utf8("error:AT0401-Exception: Pol Authentication Failed\n@")), [
      { type: "error", body: "AT0401-Exception: Pol Authentication Failed" },
    ]);
    t.same(refused.push(utf8("@alice@")), [], "the expectation has ended");
  });

  t.test("refuses a response over its limit instead of holding it", async (t) => {
    const framer = new ResponseFramer({ maxBytes: 8 });
    t.throws(() => framer.push(utf8("data:12345")), { code: "LIMIT_EXCEEDED" });
    const many = new ResponseFramer({ maxBytes: 32 });
    many.push(utf8("data:1\n"));
    t.throws(() => Array.from({ length: 40 }, () => many.push(utf8("\n"))), { code: "LIMIT_EXCEEDED" });
  });

  t.test("refuses what begins with no known word, and what is not UTF-8", async (t) => {
    t.throws(() => frameAll("@HTTP/1.1 400 Bad Request\n"), { code: "SYNTAX_INVALID" });
    t.throws(() => frameAll("@foo: bar\n"), { code: "SYNTAX_INVALID" });
    const framer = new ResponseFramer({ maxBytes: 64 });
    t.throws(() => framer.push(Buffer.from("646174613aff0a", "hex")), { code: "SYNTAX_INVALID" });
  });

  t.test("ignores what is only a prompt, and a reply that was cut off", async (t) => {
    t.same(frameAll("@\n\n@alice@\ndata:half"), []);
  });

  t.test("meets garbage with typed errors only", async () => {
    const piece = fc.oneof(
      fc.uint8Array({ maxLength: 12 }),
      fc.constantFrom("data:", "error:", "@", "@alice@", "\n", "\r\n", "notification: {", "stream:", ":").map(utf8),
    );
    fc.assert(
      fc.property(
        fc.array(piece),
        fc.boolean(),
        fc.constantFrom("command" as const, "monitor" as const),
        (chunks, pol, mode) => {
          const framer = new ResponseFramer({ maxBytes: 48, mode });
          if (pol) framer.expectHandshake();
          try {
            for (const chunk of chunks) framer.push(chunk);
            framer.end();
            return true;
          } catch (error) {
            return (
              error instanceof Error &&
              "code" in error &&
              ["LIMIT_EXCEEDED", "SYNTAX_INVALID"].includes(String(error.code))
            );
          }
        },
      ),
    );
  });
});

t.test("parseAtError", async (t) => {
  t.test("reads the three shapes", async (t) => {
    const missing = "key not found : phone.demo@alice does not exist in keystore";
    t.match(parseAtError(`AT0015-${missing}`), { code: "AT0015", description: missing, remedy: "answer" });
    t.match(parseAtError("AT0026:enrollment_id: 4f is pending"), {
      code: "AT0026",
      description: "enrollment_id: 4f is pending",
      remedy: "wait",
    });
    t.match(parseAtError(`{"errorCode":"AT0015","errorDescription":"${missing}"}`), {
      code: "AT0015",
      description: missing,
      message: `AT0015: ${missing}`,
    });
  });

  t.test("keeps codes it does not know, and makes do without one", async (t) => {
    t.match(parseAtError("AT7777-new"), { code: "AT7777", description: "new", remedy: "wait" });
    t.match(parseAtError("null:InvalidSyntaxException"), {
      code: "UNKNOWN",
      description: "null:InvalidSyntaxException",
    });
    t.match(parseAtError('{"errorCode":5}'), { code: "UNKNOWN" });
    t.match(parseAtError('{"errorCode":"AT0009"}'), { code: "AT0009", description: "" });
    t.match(parseAtError("{oops"), { code: "UNKNOWN", description: "{oops" });
  });

  t.test("knows what to do about a code", async (t) => {
    t.equal(parseAtError("AT0401-Exception: Authentication Failed").remedy, "login");
    t.equal(parseAtError("AT0027:enrollment_id: 4f is revoked").remedy, "stop");
    t.equal(parseAtError("AT0003-Invalid syntax : x").remedy, "fix");
    t.equal(describeCode("AT0015"), "key not found");
    t.equal(describeCode("AT9999"), "Internal server exception");
    t.ok(closesConnection("AT0013"));
    t.notOk(closesConnection("AT0003"));
    t.notOk(closesConnection("constructor"));
  });

  t.test("is documented code by code", async (t) => {
    const page = readFileSync(new URL("../../../docs/reference/wire.md", import.meta.url), "utf8");
    const rows = Array.from(page.matchAll(/^\| (AT\d{4}) +\| (.+?) +\| (.+?) +\|$/gmu));
    t.equal(rows.length, 28);
    for (const [, code = "", meaning, remedy] of rows) {
      t.equal(describeCode(code), meaning, code);
      t.equal(parseAtError(`${code}-text`).remedy, remedy, code);
    }
  });
});
