import { CommandScanner } from "../command-scanner.js";
import { CommandInvalid, oneLine, type VerbCodec } from "../verb-codec.js";

export const ENROLL_OPERATIONS = [
  "request",
  "approve",
  "deny",
  "revoke",
  "unrevoke",
  "delete",
  "list",
  "fetch",
] as const;
export type EnrollOperation = (typeof ENROLL_OPERATIONS)[number];

export const ENROLLMENT_STATES = ["pending", "approved", "denied", "revoked", "expired"] as const;
export type EnrollmentState = (typeof ENROLLMENT_STATES)[number];

/** Which namespaces, and for each whether to read, or to read and write. */
export type Namespaces = Readonly<Record<string, "r" | "rw">>;

/** All optional here: what an operation needs is for the atServer to say (atserver.md, 3.28.2). */
export interface EnrollParams {
  readonly enrollmentId?: string;
  readonly appName?: string;
  readonly deviceName?: string;
  readonly namespaces?: Namespaces;
  readonly otp?: string;
  readonly encryptedDefaultEncryptionPrivateKey?: string;
  /** Later revisions encrypt with an IV, base64; without it the IV is zero. */
  readonly encPrivateKeyIV?: string;
  readonly encryptedDefaultSelfEncryptionKey?: string;
  readonly selfEncKeyIV?: string;
  readonly encryptedAPKAMSymmetricKey?: string;
  /** Base64 SPKI, or the hex point of an elliptic curve. */
  readonly apkamPublicKey?: string;
  /** 0: never. */
  readonly apkamKeysExpiryInMillis?: number;
  readonly enrollmentStatusFilter?: readonly EnrollmentState[];
}

export interface Enroll {
  readonly operation: EnrollOperation;
  /** Lets a client revoke its own enrolment. */
  readonly force: boolean;
  readonly params: EnrollParams;
}

type Check = (value: unknown) => unknown;

const text: Check = (value) => (typeof value === "string" ? value : undefined);
const millis: Check = (value) => (Number.isSafeInteger(value) && Number(value) >= 0 ? value : undefined);

/** In the order of the Dart client. A check gives the value, or `undefined` for one of the wrong kind. */
const MEMBERS: readonly (readonly [name: keyof EnrollParams, check: Check])[] = [
  ["enrollmentId", text],
  ["appName", text],
  ["deviceName", text],
  ["namespaces", parseNamespaces],
  ["otp", text],
  ["encryptedDefaultEncryptionPrivateKey", text],
  ["encPrivateKeyIV", text],
  ["encryptedDefaultSelfEncryptionKey", text],
  ["selfEncKeyIV", text],
  ["encryptedAPKAMSymmetricKey", text],
  ["apkamPublicKey", text],
  ["apkamKeysExpiryInMillis", millis],
  ["enrollmentStatusFilter", parseStates],
];

/** `enroll:<operation>[:force][:{…}]`: keys for another device or application. */
export const enroll: VerbCodec<Enroll> = {
  usage: 'enroll:request:{"appName":"wavi","deviceName":"iPhone","namespaces":{"wavi":"rw"},"otp":"<otp>"}',

  format({ operation, force, params }) {
    const members = MEMBERS.map(([name]) => [name, params[name]] as const).filter(([, value]) => value !== undefined);
    const json = members.length === 0 ? "" : `:${JSON.stringify(Object.fromEntries(members))}`;
    return oneLine(`enroll:${operation}${force ? ":force" : ""}${json}`);
  },

  parse(line) {
    const scanner = new CommandScanner(line, enroll.usage);
    scanner.expect("enroll:");
    const operation = scanner.choice("", ENROLL_OPERATIONS) ?? scanner.refuse();
    const force = scanner.skip(":force");
    scanner.skip(":");
    const json = scanner.rest();
    if (json !== "") return { operation, force, params: parseParams(json) };
    if (operation !== "list") throw new CommandInvalid("Enroll parameters not provided", "AT0022");
    return { operation, force, params: {} };
  },
};

// The texts of errors name members, never their values: some are secret.
function parseParams(json: string): EnrollParams {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (cause) {
    throw new CommandInvalid("Enroll parameters are not JSON", "AT0022", { cause });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new CommandInvalid("Enroll parameters are not a JSON object", "AT0022");
  }
  const given = new Map<string, unknown>(Object.entries(value));
  const found: Record<string, unknown> = {};
  for (const [name, check] of MEMBERS) {
    const member = given.get(name) ?? undefined;
    if (member === undefined) continue;
    found[name] = check(member);
    if (found[name] === undefined) throw new CommandInvalid(`Enroll parameter ${name} is not valid`, "AT0022");
  }
  return found;
}

function parseNamespaces(value: unknown): Namespaces | undefined {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return undefined;
  const entries = Object.entries(value).filter(([name, access]) => name !== "" && (access === "r" || access === "rw"));
  return entries.length === Object.keys(value).length ? Object.fromEntries(entries) : undefined;
}

/** Later revisions of the Dart client send one element with commas. */
function parseStates(value: unknown): readonly EnrollmentState[] | undefined {
  if (!Array.isArray(value)) return undefined;
  const names = value.flatMap((item) => (typeof item === "string" ? item.split(",").map((name) => name.trim()) : [""]));
  const states = ENROLLMENT_STATES.filter((state) => names.includes(state));
  return names.every((name) => (states as readonly string[]).includes(name)) ? states : undefined;
}
