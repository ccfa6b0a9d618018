import { randomBytes } from "node:crypto";
import { fromBase64, utf8 } from "../../core/bytes.js";
import { EdgeError, SyntaxInvalid } from "../../core/errors.js";
import type { Secret } from "../../core/secret.js";
import { decryptText, encryptText, newIv } from "./aes-ctr.js";
import { knownAlgorithm } from "./algorithms.js";
import type { Argon2idParams } from "./argon2id.js";
import { parseJsonObject } from "./at-keys.js";
import { KeyFileInvalid, PassphraseWrong } from "./errors.js";

/** `compatible`: read by every SDK that knows passphrases. `salted`: the later form, read by newer ones only. */
export type WrapForm = "compatible" | "salted";

type JsonObject = Readonly<Record<string, unknown>>;
type Cost = Pick<Argon2idParams, "memoryKiB" | "iterations" | "parallelism">;

const COMPATIBLE_COST: Cost = { memoryKiB: 10_000, iterations: 2, parallelism: 2 };
const SALTED_COST: Cost = { memoryKiB: 19_456, iterations: 2, parallelism: 1 };
const KEY_BYTES = 32;
const SALT_BYTES = 16;
/** A file is not trusted with all of our memory and time. */
const MAX_MEMORY_KIB = 256 * 1024;
const MAX_ITERATIONS = 32;
const MAX_PARALLELISM = 64;

/**
 * The text of the key file inside; of a file that is not wrapped its own (client.md, 1.4 and A.2).
 *
 * @throws {KeyFileInvalid} on a form that is not known, {@link UnknownAlgorithm}, {@link PassphraseWrong}.
 */
export async function unwrapAtKeys(outer: string, passphrase: Secret): Promise<string> {
  const file = parseJsonObject(outer);
  if (!("iv" in file)) return outer;
  const content = text(file, "content");
  const iv = bytes(file, "iv");
  if (iv.length !== 16) throw new KeyFileInvalid(`iv: expected 16 bytes, got ${iv.length}`);
  const { salt, cost } = saltAndCost(file, passphrase);
  const key = await derive(passphrase, salt, cost);
  try {
    const inner = decryptText(content, key, iv);
    JSON.parse(inner);
    return inner;
  } catch (error) {
    if (!(error instanceof EdgeError || error instanceof SyntaxError)) throw error;
    throw new PassphraseWrong("wrong passphrase or damaged file"); // no cause: V8 repeats the text
  }
}

/** The reverse of {@link unwrapAtKeys}: `inner` is what `formatAtKeys` gives. @throws {SyntaxInvalid} without a passphrase. */
export async function wrapAtKeys(inner: Secret, passphrase: Secret, form: WrapForm): Promise<string> {
  if (passphrase.reveal() === "") throw new SyntaxInvalid("the passphrase is empty");
  const iv = newIv();
  const isSalted = form === "salted";
  const cost = isSalted ? SALTED_COST : COMPATIBLE_COST;
  const salt = isSalted ? randomBytes(SALT_BYTES) : passphraseAsSalt(passphrase);
  const content = encryptText(inner.reveal(), await derive(passphrase, salt, cost), iv);
  const { memoryKiB: memory, iterations, parallelism } = cost;
  return JSON.stringify({
    ...(isSalted && { v: 1 }),
    content,
    iv: iv.toString("base64"),
    hashingAlgoType: "argon2id",
    ...(isSalted && { salt: Buffer.from(salt).toString("base64"), kdfParams: { memory, iterations, parallelism } }),
  });
}

/** Argon2id is slow by design, and most files need none of it: it is loaded only now. */
async function derive(passphrase: Secret, salt: Uint8Array, cost: Cost): Promise<Buffer> {
  const { argon2id } = await import("./argon2id.js");
  return argon2id(utf8(passphrase.reveal()), salt, { ...cost, keyBytes: KEY_BYTES });
}

/** Of each UTF-16 unit the low 8 bits, as Dart's `Uint8List.fromList(text.codeUnits)` leaves them. */
const passphraseAsSalt = (passphrase: Secret): Uint8Array =>
  Uint8Array.from({ length: passphrase.reveal().length }, (_, index) => passphrase.reveal().charCodeAt(index) & 0xff);

function saltAndCost(file: JsonObject, passphrase: Secret): { readonly salt: Uint8Array; readonly cost: Cost } {
  const { v, salt, kdfParams } = file;
  knownAlgorithm("hashingAlgoType", text(file, "hashingAlgoType"));
  if (v === undefined && salt === undefined && kdfParams === undefined) {
    return { salt: passphraseAsSalt(passphrase), cost: COMPATIBLE_COST };
  }
  if (v !== 1)
    throw new KeyFileInvalid(`v: expected 1, got ${v === undefined ? "nothing" : JSON.stringify(v).slice(0, 20)}`);
  const given = typeof kdfParams === "object" && kdfParams !== null ? (kdfParams as JsonObject) : {};
  const parallelism = integer(given, "parallelism", SALTED_COST.parallelism, 1, MAX_PARALLELISM);
  return {
    salt: bytes(file, "salt"),
    cost: {
      parallelism,
      memoryKiB: integer(given, "memory", SALTED_COST.memoryKiB, 8 * parallelism, MAX_MEMORY_KIB),
      iterations: integer(given, "iterations", SALTED_COST.iterations, 1, MAX_ITERATIONS),
    },
  };
}

function integer(file: JsonObject, member: string, fallback: number, min: number, max: number): number {
  const value = Object.hasOwn(file, member) ? file[member] : fallback;
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= min && value <= max) return value;
  throw new KeyFileInvalid(`kdfParams.${member}: expected ${min} to ${max}`);
}

function text(file: JsonObject, member: string): string {
  const value = Object.hasOwn(file, member) ? file[member] : undefined;
  if (typeof value !== "string" || value === "") throw new KeyFileInvalid(`${member}: expected a text`);
  return value;
}

function bytes(file: JsonObject, member: string): Buffer {
  try {
    return fromBase64(text(file, member));
  } catch (error) {
    if (error instanceof KeyFileInvalid) throw error;
    throw new KeyFileInvalid(`${member}: is not base64`);
  }
}
