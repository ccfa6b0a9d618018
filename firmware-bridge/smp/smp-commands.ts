import { createHash } from "node:crypto";
import { SyntaxInvalid } from "../../core/errors.js";
import type { CborValue } from "../cbor.js";
import { FlashRefused } from "../update/flash-target.js";
import { SMP_NOT_SUPPORTED, type SmpClient, SmpError } from "./smp-client.js";
import { formatSmpPacket } from "./smp-packet.js";

const OS = 0;
const IMAGE = 1;
const ERASE_TIMEOUT_MS = 15_000;

/** OS group, command 0: the board says the same text. */
export async function smpEcho(client: SmpClient, text: string, signal: AbortSignal): Promise<string> {
  const body = await client.request({ operation: "write", group: OS, command: 0, body: { d: text } }, signal);
  const answer = body.get("r");
  if (typeof answer !== "string") throw new SyntaxInvalid("SMP echo: expected r, a text");
  return answer;
}

/** OS group, command 5. */
export async function smpReset(client: SmpClient, signal: AbortSignal): Promise<void> {
  await client.request({ operation: "write", group: OS, command: 5 }, signal);
}

/** OS group, command 6: learns the server's buffer, where it tells. */
export async function smpParameters(client: SmpClient, signal: AbortSignal): Promise<void> {
  try {
    const size = (await client.request({ operation: "read", group: OS, command: 6 }, signal)).get("buf_size");
    if (typeof size === "number" && size >= 128) client.bufferBytes = Math.min(size, 4096);
  } catch (error) {
    const isUnknown = error instanceof SmpError && error.group === undefined && error.rc === SMP_NOT_SUPPORTED;
    if (!isUnknown) throw error;
  }
}

export interface SmpImage {
  readonly image: number;
  readonly slot: number;
  readonly version: string;
  readonly hash: Uint8Array | undefined;
  readonly bootable: boolean;
  readonly pending: boolean;
  readonly confirmed: boolean;
  readonly active: boolean;
  readonly permanent: boolean;
}

/** Image group, command 0, read. */
export async function smpImages(client: SmpClient, signal: AbortSignal): Promise<readonly SmpImage[]> {
  return parseImages((await client.request({ operation: "read", group: IMAGE, command: 0 }, signal)).get("images"));
}

function parseImages(list: CborValue | undefined): readonly SmpImage[] {
  if (!Array.isArray(list)) throw new SyntaxInvalid("SMP image state: expected images, an array");
  return (list as readonly CborValue[]).map((entry) => {
    if (!(entry instanceof Map)) throw new SyntaxInvalid("SMP image state: expected a map a slot");
    const fields = entry as ReadonlyMap<string, CborValue>;
    const hash = fields.get("hash");
    const number = (name: string): number => {
      const value = fields.get(name);
      return typeof value === "number" ? value : 0;
    };
    const version = fields.get("version");
    return {
      image: number("image"),
      slot: number("slot"),
      version: typeof version === "string" ? version : "",
      hash: hash instanceof Uint8Array ? hash : undefined,
      bootable: fields.get("bootable") === true,
      pending: fields.get("pending") === true,
      confirmed: fields.get("confirmed") === true,
      active: fields.get("active") === true,
      permanent: fields.get("permanent") === true,
    };
  });
}

/** Image group, command 0, write: tests the image of this hash, or confirms it (the running one without a hash). */
export async function smpSetState(
  client: SmpClient,
  hash: Uint8Array | undefined,
  confirm: boolean,
  signal: AbortSignal,
): Promise<void> {
  const body = { confirm, ...(hash ? { hash } : {}) };
  await client.request({ operation: "write", group: IMAGE, command: 0, body, timeoutMs: 5000 }, signal);
}

/** Image group, command 5. */
export async function smpErase(client: SmpClient, signal: AbortSignal): Promise<void> {
  await client.request({ operation: "write", group: IMAGE, command: 5, timeoutMs: ERASE_TIMEOUT_MS, tries: 2 }, signal);
}

/**
 * Image group, command 1: in pieces that fit the server's buffer, each answered with the offset to go on from. After a
 * cut the first answer says how far the same image (by its SHA-256) has come.
 */
export async function smpUpload(
  client: SmpClient,
  image: Uint8Array,
  progress: (sentBytes: number) => void,
  signal: AbortSignal,
): Promise<void> {
  const sha = createHash("sha256").update(image).digest();
  let offset = 0;
  let stuck = 0;
  for (;;) {
    const body = pieceOf(image, offset, sha, client.bufferBytes);
    const slow = offset === 0; // the server may erase the slot now
    const answer = await client.request(
      {
        operation: "write",
        group: IMAGE,
        command: 1,
        body,
        timeoutMs: slow ? 5000 : 2000,
        tries: 6,
      },
      signal,
    );
    const next = answer.get("off");
    if (typeof next !== "number" || next > image.length || next < 0)
      throw new SyntaxInvalid("SMP upload: expected off within the image");
    stuck = next === offset ? stuck + 1 : 0;
    if (stuck > 5) throw new FlashRefused(`the board takes no more at byte ${offset}`);
    if (next === image.length && answer.get("match") === false)
      throw new FlashRefused("the board has read back another image");
    offset = next;
    progress(offset);
    if (offset === image.length) return;
  }
}

/** The most of the image that fits one packet of `bufferBytes`, length and CRC included. */
function pieceOf(image: Uint8Array, off: number, sha: Uint8Array, bufferBytes: number) {
  const bodyOf = (data: Uint8Array) => (off === 0 ? { image: 0, len: image.length, off, sha, data } : { off, data });
  const packetOf = (data: Uint8Array) =>
    formatSmpPacket({ operation: "write", version: 1, group: IMAGE, command: 1, sequence: 0, body: bodyOf(data) });
  // The head of `data` takes at most two bytes more than that of an empty one.
  const room = bufferBytes - 4 - packetOf(new Uint8Array()).length - 2;
  return bodyOf(image.subarray(off, off + Math.max(16, room)));
}
