import { createHash } from "node:crypto";
import { DeviceGone } from "../../core/errors.js";
import type { Port } from "../../core/port.js";
import type { CborInput } from "../../firmware-bridge/cbor.js";
import { formatSmpConsole, SmpConsoleFramer } from "../../firmware-bridge/smp/smp-console.js";
import { formatSmpPacket, parseSmpPacket, type SmpPacket } from "../../firmware-bridge/smp/smp-packet.js";

interface SlotState {
  image: Uint8Array;
  version: string;
}

/** Flash of an SMP board: it outlives the board's process. */
export interface SmpFlash {
  slots: [SlotState | undefined, SlotState | undefined];
  active: 0 | 1;
  confirmed: boolean;
  pending: boolean;
  upload: { sha: string; length: number; bytes: Uint8Array } | undefined;
}

export const hashOf = (image: Uint8Array): Uint8Array => createHash("sha256").update(image).digest();
/** `version` and a newline, then anything: `bad` in it does not come up. */
export const smpImage = (version: string, bytes: number): Uint8Array => Buffer.alloc(bytes, `${version}\n`);
const versionOf = (image: Uint8Array): string => Buffer.from(image).toString("latin1").split("\n", 1)[0] ?? "";

export const newFlash = (): SmpFlash => ({
  slots: [{ image: smpImage("1.0.0", 500), version: "1.0.0" }, undefined],
  active: 0,
  confirmed: true,
  pending: false,
  upload: undefined,
});

export interface SmpBoardOptions {
  readonly bufferBytes?: number;
  /** Answers lost, by chance. */
  readonly lose?: () => boolean;
  /** Text that the console prints between packets. */
  readonly chatter?: string;
  /** Errors in the way of version 1: `rc`. */
  readonly version1?: boolean;
  /** Called at each request; what it throws is a power cut. */
  readonly onRequest?: (packet: SmpPacket) => void;
}

/**
 * An SMP server with two slots, written after the SMP specification of Zephyr, as a port in memory. A reset, or an
 * error thrown by `onRequest`, closes the port; a new board on the same flash is the next boot.
 */
export class SmpBoard implements Port {
  readonly path = "smp-board";
  readonly #flash: SmpFlash;
  readonly #options: SmpBoardOptions;
  readonly #framer: SmpConsoleFramer;
  readonly #out: Uint8Array[] = [];
  #wake: (() => void) | undefined;
  #gone = false;

  constructor(flash: SmpFlash, options: SmpBoardOptions = {}) {
    this.#flash = flash;
    this.#options = options;
    this.#framer = new SmpConsoleFramer({ maxBytes: (options.bufferBytes ?? 384) - 4 });
    this.#boot();
  }

  #boot(): void {
    const flash = this.#flash;
    if (flash.pending) {
      flash.pending = false;
      const next = flash.active === 0 ? 1 : 0;
      if (flash.slots[next]?.version === "bad") return; // it does not come up; the watchdog boots the old one
      flash.active = next;
      flash.confirmed = false;
    } else if (!flash.confirmed) {
      flash.active = flash.active === 0 ? 1 : 0;
      flash.confirmed = true;
    }
  }

  async *read(signal: AbortSignal): AsyncGenerator<Uint8Array> {
    signal.addEventListener("abort", () => this.#wake?.(), { once: true });
    while (!signal.aborted) {
      const chunk = this.#out.shift();
      if (chunk) yield chunk;
      else if (this.#gone) return;
      else await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  async write(bytes: Uint8Array): Promise<void> {
    if (this.#gone) throw new DeviceGone("the board is gone");
    for (const packet of this.#framer.push(bytes)) {
      try {
        this.#take(parseSmpPacket(packet));
      } catch (error) {
        this.#close();
        if (!(error instanceof DeviceGone)) throw error;
      }
    }
  }

  get badPackets(): number {
    return this.#framer.counters.bad;
  }

  #take(request: SmpPacket): void {
    this.#options.onRequest?.(request);
    const body = this.#answer(request);
    const operation = request.operation === "read" ? "read-response" : "write-response";
    if (this.#options.chatter) this.#say(Buffer.from(this.#options.chatter));
    if (!this.#options.lose?.()) {
      const version = this.#options.version1 ? 0 : 1;
      this.#say(formatSmpConsole(formatSmpPacket({ ...request, operation, version, body })));
    }
    if (request.group === 0 && request.command === 5) this.#close();
  }

  #say(bytes: Uint8Array): void {
    // In odd pieces, as a UART driver gives them.
    for (let at = 0; at < bytes.length; at += 50) this.#out.push(bytes.subarray(at, at + 50));
    this.#wake?.();
  }

  #close(): void {
    this.#gone = true;
    this.#wake?.();
  }

  #answer({ operation, group, command, body }: SmpPacket): Record<string, CborInput> {
    const key = `${group}/${command}/${operation}`;
    if (key === "0/0/write") return { r: body.get("d") ?? "" };
    if (key === "0/5/write") return {};
    if (key === "0/6/read") {
      const { bufferBytes } = this.#options;
      return bufferBytes ? { buf_size: bufferBytes, buf_count: 4 } : { rc: 8 };
    }
    if (key === "1/0/read") return this.#images();
    if (key === "1/0/write") return this.#setState(body.get("hash"), body.get("confirm") === true);
    if (key === "1/1/write") return this.#upload(body);
    if (key === "1/5/write") return this.#erase();
    return { rc: 8 };
  }

  /** A group's own code where the version has them, else the protocol's. */
  #fault(rc: number, [group, groupRc]: readonly [number, number]): Record<string, CborInput> {
    return this.#options.version1 ? { rc } : { err: { group, rc: groupRc } };
  }

  get #inactive(): 0 | 1 {
    return this.#flash.active === 0 ? 1 : 0;
  }

  #images(): Record<string, CborInput> {
    const { slots, active, confirmed, pending } = this.#flash;
    const images = slots.flatMap((slot, index) => {
      if (!slot) return [];
      const isActive = index === active;
      return [
        {
          slot: isActive ? 0 : 1, // MCUboot swaps: what runs is in slot 0
          version: slot.version,
          hash: hashOf(slot.image),
          bootable: true,
          pending: !isActive && pending,
          confirmed: isActive && confirmed,
          active: isActive,
          permanent: false,
        },
      ];
    });
    return { images, splitStatus: 0 };
  }

  #setState(hash: unknown, confirm: boolean): Record<string, CborInput> {
    const flash = this.#flash;
    const is = (slot: SlotState | undefined): boolean =>
      slot !== undefined && hash instanceof Uint8Array && Buffer.compare(hashOf(slot.image), hash) === 0;
    if (confirm && (hash === undefined || is(flash.slots[flash.active]))) flash.confirmed = true;
    else if (!confirm && is(flash.slots[this.#inactive]) && flash.confirmed) flash.pending = true;
    else return this.#fault(6, [1, 8]);
    return this.#images();
  }

  #upload(body: SmpPacket["body"]): Record<string, CborInput> {
    const flash = this.#flash;
    const [off, data, sha, length] = [body.get("off"), body.get("data"), body.get("sha"), body.get("len")];
    if (typeof off !== "number" || !(data instanceof Uint8Array)) return this.#fault(3, [1, 1]);
    if (off === 0) {
      if (typeof length !== "number" || !flash.confirmed || flash.pending) return this.#fault(6, [1, 28]);
      const wanted = sha instanceof Uint8Array ? Buffer.from(sha).toString("hex") : "";
      if (flash.upload?.sha === wanted && flash.upload.bytes.length > 0) return { off: flash.upload.bytes.length };
      flash.upload = { sha: wanted, length, bytes: new Uint8Array() };
      flash.slots[this.#inactive] = undefined;
    }
    const { upload } = flash;
    if (!upload) return this.#fault(6, [1, 28]);
    if (off !== upload.bytes.length) return { off: upload.bytes.length };
    upload.bytes = Buffer.concat([upload.bytes, data]);
    if (upload.bytes.length < upload.length) return { off: upload.bytes.length };
    const match = Buffer.from(hashOf(upload.bytes)).toString("hex") === upload.sha;
    flash.slots[this.#inactive] = { image: upload.bytes, version: versionOf(upload.bytes) };
    flash.upload = undefined;
    return { off: upload.length, match };
  }

  #erase(): Record<string, CborInput> {
    this.#flash.slots[this.#inactive] = undefined;
    this.#flash.upload = undefined;
    return {};
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#close();
  }
}
