import { existsSync } from "node:fs";
import { mkdir, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import * as v from "valibot";
import { fromBase64 } from "../../core/bytes.js";
import { CommandRefused } from "../../core/command-errors.js";
import { compareVersions, VERSION_TEXT } from "../../core/compare-versions.js";
import { MAX_RELEASE_BYTES, requestUpdate, UPDATE_OUTCOME, UPDATE_REQUEST } from "../../core/update-request.js";
import type { JsonObject } from "../../messages/json-field.js";
import type { AgentTarget, TargetCommand } from "../control/targets.js";

/** Bytes of a release in one command: with base64 and its envelope it fits a notification. */
export const RELEASE_PIECE_BYTES = 16_384;
const PART = "incoming.part";
const BEGUN = "incoming.json";
/** What {@link BEGUN} becomes: so that a last piece whose answer was lost is known when it comes again. */
const HANDED_OVER = "handed-over.json";

export interface UpdateCommandOptions {
  /** `update` in the agent's state folder, where the helper looks. */
  readonly folder: string;
  readonly version: string;
  /** The helper's own, which it lets everybody read; `/var/lib/atedge-update` beside `/var/lib/atedge`. */
  readonly helperFolder?: string;
}

const text = (maxLength: number): JsonObject => ({ type: "string", maxLength });
const command = (name: string, properties: JsonObject, more: Partial<TargetCommand> = {}): TargetCommand => ({
  name,
  idempotent: true,
  argsSchema: { type: "object", properties, required: Object.keys(properties), additionalProperties: false },
  ...more,
});
const COMMANDS: readonly TargetCommand[] = [
  command("update-begin", { signed: text(4096), signature: text(128) }),
  command("update-data", { offset: { type: "integer", minimum: 0 }, data: text(2 * RELEASE_PIECE_BYTES) }),
  command("update-status", {}, { reads: true }),
];

// The helper checks what counts; this is to say early what cannot be.
const releaseSchema = v.object({
  version: v.pipe(v.string(), v.regex(VERSION_TEXT)),
  kind: v.picklist(["deb", "tar"]),
  bytes: v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(MAX_RELEASE_BYTES)),
});
const signedSchema = v.strictObject({ signed: v.string(), signature: v.string() });

/**
 * The agent, able to take a new version of itself in pieces over the ordinary command path. It only hands it to the
 * root-owned helper, which verifies and installs it; the policy decides who may send it.
 */
export function withUpdateCommands(agent: AgentTarget, options: UpdateCommandOptions): AgentTarget {
  const incoming = new IncomingRelease(options);
  return {
    commands: [...agent.commands, ...COMMANDS],
    async call(name, args, by, signal) {
      switch (name) {
        case "update-begin":
          return incoming.begin(args);
        case "update-data":
          return incoming.take(Number(args["offset"]), String(args["data"]));
        case "update-status":
          return incoming.status();
        default:
          return agent.call(name, args, by, signal);
      }
    },
  };
}

/** A release on its way in; what has arrived is on the disk, so that a sender goes on where it was. */
export class IncomingRelease {
  readonly #folder: string;
  readonly #version: string;
  readonly #helperFolder: string;

  constructor({ folder, version, helperFolder = `${resolve(folder, "..")}-update` }: UpdateCommandOptions) {
    this.#folder = folder;
    this.#version = version;
    this.#helperFolder = helperFolder;
  }

  /** The same release again goes on; another one begins anew. @throws {CommandRefused} */
  async begin(args: JsonObject): Promise<JsonObject> {
    const signed = v.parse(signedSchema, args);
    const { version } = releaseOf(signed.signed);
    if (compareVersions(version, this.#version) <= 0)
      throw new CommandRefused(`version ${version} is not newer than ${this.#version}, which runs`);
    const begun = await this.#begun();
    if (begun?.signed !== signed.signed || begun.signature !== signed.signature) {
      await mkdir(this.#folder, { recursive: true, mode: 0o700 });
      // What was left half-done, by us or by a person.
      for (const name of await readdir(this.#folder)) await rm(join(this.#folder, name), { force: true });
      const file = await open(join(this.#folder, BEGUN), "w", 0o600);
      await file.writeFile(JSON.stringify(signed)).finally(() => file.close());
    }
    return { version, offset: await this.#received() };
  }

  /** One piece, in order; the last one hands the release over. @throws {CommandRefused} */
  async take(offset: number, data: string): Promise<JsonObject> {
    const begun = await this.#begun();
    if (!begun) return this.#lastPieceAgain(offset, data);
    const { version, kind, bytes } = releaseOf(begun.signed);
    const received = await this.#received();
    if (offset !== received) return { offset: received };
    let piece: Buffer;
    try {
      piece = fromBase64(data);
    } catch (cause) {
      throw new CommandRefused("the data is not base64", { cause });
    }
    if (received + piece.length > bytes) throw new CommandRefused(`the release has ${bytes} bytes only`);
    const part = join(this.#folder, PART);
    const file = await open(part, "a", 0o600);
    try {
      await file.writeFile(piece);
      if (received + piece.length === bytes) await file.sync();
    } finally {
      await file.close();
    }
    if (received + piece.length < bytes) return { offset: received + piece.length };
    const name = `atedge_${version}.${kind}`;
    await rename(part, join(this.#folder, name));
    // The request last: from then on the helper may stop us at any moment.
    await rename(join(this.#folder, BEGUN), join(this.#folder, HANDED_OVER));
    await requestUpdate(this.#folder, { file: name, ...begun });
    return { offset: bytes, handedOver: version };
  }

  async #lastPieceAgain(offset: number, data: string): Promise<JsonObject> {
    const last = await this.#signedIn(HANDED_OVER);
    const release = last && releaseOf(last.signed);
    if (release && offset + Buffer.byteLength(data, "base64") === release.bytes)
      return { offset: release.bytes, handedOver: release.version };
    throw new CommandRefused("no release has been begun: update-begin comes first");
  }

  /** What runs, what is on its way, and how the last update ended. */
  async status(): Promise<JsonObject> {
    const begun = await this.#begun();
    const handedOver = existsSync(join(this.#folder, UPDATE_REQUEST));
    const underWay = handedOver || existsSync(join(this.#helperFolder, "state.json"));
    const last = await readFile(join(this.#helperFolder, UPDATE_OUTCOME), "utf8").then(
      (text) => JSON.parse(text) as JsonObject,
      () => null,
    );
    const incoming = begun && { version: releaseOf(begun.signed).version, received: await this.#received() };
    return { version: this.#version, underWay, incoming: incoming ?? null, last };
  }

  #begun(): Promise<v.InferOutput<typeof signedSchema> | undefined> {
    return this.#signedIn(BEGUN);
  }

  async #signedIn(name: string): Promise<v.InferOutput<typeof signedSchema> | undefined> {
    const text = await readFile(join(this.#folder, name), "utf8").catch(() => undefined);
    try {
      return text === undefined ? undefined : v.parse(signedSchema, JSON.parse(text));
    } catch {
      return undefined; // cut off by a power cut: begun anew
    }
  }

  async #received(): Promise<number> {
    return stat(join(this.#folder, PART)).then(
      ({ size }) => size,
      () => 0,
    );
  }
}

function releaseOf(signed: string): v.InferOutput<typeof releaseSchema> {
  try {
    return v.parse(releaseSchema, JSON.parse(signed));
  } catch (cause) {
    throw new CommandRefused("that is no description of a release of atedge", { cause });
  }
}
