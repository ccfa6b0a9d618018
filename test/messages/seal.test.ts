import { deepStrictEqual } from "node:assert";
import { createHmac, hkdfSync } from "node:crypto";
import { readFileSync } from "node:fs";
import fc from "fast-check";
import t from "tap";
import { fromBase64, utf8 } from "../../core/bytes.js";
import { EdgeError } from "../../core/errors.js";
import type { JsonObject } from "../../messages/json-field.js";
import { formatReceipt, parseReceipt } from "../../messages/receipt.js";
import { formatTelemetry, parseTelemetry } from "../../messages/telemetry.js";
import { openSealed, seal, SealInvalid } from "../../messages/seal.js";

interface SealVectors {
  readonly aesKey: string;
  readonly cases: readonly {
    readonly name: string;
    readonly atKey: string;
    readonly canonicalAtKey: string;
    readonly body: string;
    readonly sealed: string;
  }[];
}

const vectors = JSON.parse(
  readFileSync(new URL("../vectors/messages-seal.json", import.meta.url), "utf8"),
) as SealVectors;
const aesKey = fromBase64(vectors.aesKey);
const atKey = "@bob:telemetry.north.atedge@alice";

const jsonObject = fc.dictionary(
  fc.string().filter((name) => name !== "mac" && name !== "__proto__"),
  fc.jsonValue(),
  { maxKeys: 5 },
);
/** As JSON carries it: without -0, which it has no text for. */
const throughJson = (value: unknown): unknown => JSON.parse(JSON.stringify(value));

t.test("a seal", async (t) => {
  for (const { name, atKey, canonicalAtKey, body, sealed } of vectors.cases) {
    t.test(`is byte for byte what another implementation makes: ${name}`, async (t) => {
      t.equal(seal(JSON.parse(body) as JsonObject, atKey, aesKey), sealed);
      t.strictSame(openSealed(sealed, canonicalAtKey, aesKey), JSON.parse(body));
      t.strictSame(openSealed(sealed, `cached:${atKey.replace("cached:", "")}`, aesKey), JSON.parse(body));
    });
  }

  t.test("holds messages that read and format to the same bytes", async (t) => {
    const bodies = vectors.cases.filter(({ name }) => /telemetry|gap/u.test(name)).map(({ body }) => body);
    t.equal(bodies.length, 5);
    for (const body of bodies) t.equal(JSON.stringify(formatTelemetry(parseTelemetry(JSON.parse(body)))), body);
    const receipt = vectors.cases.find(({ name }) => name.startsWith("a receipt"))?.body ?? "";
    t.equal(JSON.stringify(formatReceipt(parseReceipt(JSON.parse(receipt)))), receipt);
  });

  t.test("opens to what was sealed", async () => {
    fc.assert(
      fc.property(jsonObject, fc.uint8Array({ minLength: 32, maxLength: 32 }), (body, key) => {
        deepStrictEqual(openSealed(seal(body, atKey, key), atKey, key), throughJson(body));
      }),
    );
  });

  t.test("is refused when any single bit of the text is flipped", async (t) => {
    for (const { sealed, canonicalAtKey } of vectors.cases.slice(1, 3)) {
      const bytes = utf8(sealed);
      let refused = 0;
      for (let bit = 0; bit < bytes.length * 8; bit += 1) {
        const flipped = Buffer.from(bytes);
        flipped.writeUInt8(flipped.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
        try {
          openSealed(flipped.toString("utf8"), canonicalAtKey, aesKey);
        } catch (error) {
          if (error instanceof SealInvalid) refused += 1;
        }
      }
      t.equal(refused, bytes.length * 8);
    }
  });

  t.test("fits one atKey and one AES key only", async (t) => {
    const sealed = seal({ v: 1 }, atKey, aesKey);
    const others = [
      "@bob:telemetry.south.atedge@alice",
      "@carol:telemetry.north.atedge@alice",
      "@bob:telemetry.north.atedge@carol",
      "@bob:receipt.north.atedge@alice",
      "not an atKey",
    ];
    for (const other of others) t.throws(() => openSealed(sealed, other, aesKey), { code: "SEAL_INVALID" }, other);
    const otherKey = Buffer.from(aesKey);
    otherKey.writeUInt8(otherKey.readUInt8(31) ^ 1, 31);
    t.throws(() => openSealed(sealed, atKey, otherKey), { code: "SEAL_INVALID" });
    t.throws(() => openSealed(sealed, atKey, aesKey.subarray(1)), { code: "SEAL_INVALID" });
  });

  t.test("is refused in any other shape, even with a mac that fits", async (t) => {
    const sealed = seal({ a: 1, b: { c: 2 } }, atKey, aesKey);
    const mac = /"mac":"(?<mac>[^"]+)"/u.exec(sealed)?.groups?.["mac"] ?? "";
    const shapes = [
      "",
      "{}",
      '"mac"',
      `${sealed} `,
      ` ${sealed}`,
      `${sealed}${sealed}`,
      sealed.replace('"mac":', '"mac": '),
      sealed.slice(0, -1),
      `{"mac":"${mac}","a":1,"b":{"c":2}}`,
      sealed.replace('"mac"', '"m\\u0061c"'),
      sealed.replace(mac, mac.replace(/=$/u, "")),
    ];
    for (const shape of shapes) t.throws(() => openSealed(shape, atKey, aesKey), { code: "SEAL_INVALID" }, shape);
  });

  t.test("is refused when what stands before its mac is no object of its own", async (t) => {
    // Sealed by someone who has the key, but not the manners.
    const tricks = ['{"mac":"x",', '{"m\\u0061c":1,', '{"a":{', "[", "", '{"a":1,,', '{"a":"', "{,", "{ ,", '{"a":1'];
    for (const before of tricks) {
      const fitting = sealAnyBytes(before);
      t.throws(() => openSealed(fitting, atKey, aesKey), { code: "SEAL_INVALID" }, before);
    }
  });

  t.test("meets garbage with SealInvalid only", async () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (text) => {
        try {
          openSealed(text, atKey, aesKey);
          return false;
        } catch (error) {
          return error instanceof EdgeError && error.code === "SEAL_INVALID";
        }
      }),
    );
  });

  t.test("is not made for a message that is too long to send, nor over a body with a mac", async (t) => {
    t.throws(() => seal({ text: "x".repeat(262_144) }, atKey, aesKey), { code: "SEAL_INVALID" });
    t.throws(() => seal({ mac: 1 }, atKey, aesKey));
  });
});

/** A text that ends in a valid mac over any bytes; the vector for `{}` shows that this is the same construction. */
function sealAnyBytes(before: string): string {
  const macKey = Buffer.from(hkdfSync("sha256", aesKey, "", "atedge-seal/1", 32));
  const mac = createHmac("sha256", macKey).update(`${atKey}\n${before}`, "utf8").digest("base64");
  return `${before}"mac":"${mac}"}`;
}
