import type { Clock } from "../../core/clock.js";
import { DeviceGone, EdgeError, SyntaxInvalid, TimedOut } from "../../core/errors.js";
import type { Port } from "../../core/port.js";
import { ChildSignal, Scope, TaskGroup, untilAborted } from "../../core/scope.js";
import type { CborInput, CborValue } from "../cbor.js";
import { formatSmpConsole, SmpConsoleFramer } from "./smp-console.js";
import { formatSmpPacket, parseSmpPacket, type SmpPacket } from "./smp-packet.js";

export type SmpBody = ReadonlyMap<string, CborValue>;

/**
 * The server answered with an error. With `group` (answers of version 2), `rc` is one of that group's own codes, else
 * one of the protocol's.
 */
export class SmpError extends EdgeError {
  override readonly code: string = "SMP_ERROR";
  readonly rc: number;
  readonly group: number | undefined;

  constructor(rc: number, group: number | undefined, reason: string | undefined) {
    const names = group === undefined ? SMP_ERRORS : GROUP_ERRORS[group];
    const where = group === undefined ? String(rc) : `group ${group}, ${rc}`;
    super(`the board answered ${names?.[rc] ?? "an error"} (${where})${reason ? `: ${reason}` : ""}`);
    this.rc = rc;
    this.group = group;
  }
}

/** Zephyr, mgmt_defines.h, `mcumgr_err_t`. */
const SMP_ERRORS: Readonly<Record<number, string>> = {
  1: "unknown error",
  2: "no memory",
  3: "bad value",
  4: "timeout",
  5: "no entry",
  6: "bad state",
  7: "message too large",
  8: "not supported",
  9: "corrupt",
  10: "busy",
  11: "access denied",
  12: "protocol version too old",
  13: "protocol version too new",
};

/** Those that a person can act on: Zephyr, os_mgmt.h, `os_mgmt_err_code_t`, and img_mgmt.h, `img_mgmt_err_code_t`. */
const GROUP_ERRORS: Readonly<Record<number, Readonly<Record<number, string>>>> = {
  0: { 1: "unknown error", 2: "invalid format" },
  1: {
    1: "unknown error",
    3: "no image in the slot",
    8: "no image with this hash",
    9: "no free slot",
    12: "flash write failed",
    13: "flash erase failed",
    14: "no such slot",
    15: "no memory",
    22: "bad image header",
    23: "no MCUboot image",
    24: "bad hash",
    28: "an image is pending already",
    30: "the image is too large",
  },
};

export const SMP_NOT_SUPPORTED = 8;

export interface SmpRequest {
  readonly operation: "read" | "write";
  readonly group: number;
  readonly command: number;
  readonly body?: Readonly<Record<string, CborInput>>;
  /** How long each try may take: an erase takes seconds. */
  readonly timeoutMs?: number;
  readonly tries?: number;
}

const MAX_PACKET_BYTES = 8192;

/**
 * An SMP client over a serial console: one request at a time, repeated with the same sequence number when no answer
 * comes. All requests of this bridge may be repeated.
 */
export class SmpClient {
  readonly #port: Port;
  readonly #clock: Clock;
  readonly #framer = new SmpConsoleFramer({ maxBytes: MAX_PACKET_BYTES });
  readonly #scope = new Scope();
  readonly #tasks: TaskGroup;
  readonly #gone = new AbortController();
  #sequence = 0;
  #answer: ((packet: SmpPacket) => void) | undefined;
  #busy: Promise<unknown> = Promise.resolve();
  /** Bytes of the longest frame that the server takes, CRC and length included; 384 until it told. */
  bufferBytes = 384;

  /** The port is owned from here on. */
  constructor({ port, clock }: { readonly port: Port; readonly clock: Clock }) {
    this.#port = port;
    this.#clock = clock;
    this.#scope.use(port);
    this.#tasks = this.#scope.use(new TaskGroup(new AbortController().signal));
    this.#tasks.start((signal) => this.#read(signal));
    this.#tasks.join().then(
      () => this.#gone.abort(new DeviceGone(`${port.path} is closed`)),
      (error: unknown) => this.#gone.abort(error),
    );
  }

  /** @throws {SmpError}, {TimedOut}, {DeviceGone} */
  request(request: SmpRequest, signal: AbortSignal): Promise<SmpBody> {
    const mine = this.#busy.then(() => this.#exchange(request, signal));
    this.#busy = mine.catch(() => undefined);
    return mine;
  }

  async #exchange(request: SmpRequest, signal: AbortSignal): Promise<SmpBody> {
    const { operation, group, command, body = {}, timeoutMs = 1000, tries = 5 } = request;
    const sequence = this.#sequence;
    this.#sequence = (sequence + 1) & 0xff;
    const packet = formatSmpPacket({ operation, version: 1, group, command, sequence, body });
    const wire = formatSmpConsole(packet);
    const answered = new Promise<SmpPacket>((resolve) => {
      this.#answer = (answer) => {
        const fits = answer.sequence === sequence && answer.group === group && answer.command === command;
        if (fits && answer.operation === `${operation}-response`) resolve(answer);
      };
    });
    for (let left = tries; left > 0; left -= 1) {
      await using child = new ChildSignal(signal);
      await untilAborted(this.#port.write(wire, child.signal), this.#gone.signal);
      const late = this.#clock.sleep(timeoutMs, child.signal).then(() => undefined);
      late.catch(() => undefined);
      const answer = await untilAborted(untilAborted(Promise.race([answered, late]), this.#gone.signal), signal);
      if (answer) return checked(answer.body);
    }
    throw new TimedOut(`the board did not answer SMP request ${group}/${command} in ${tries} tries`);
  }

  async #read(signal: AbortSignal): Promise<void> {
    for await (const chunk of this.#port.read(signal)) {
      for (const bytes of this.#framer.push(chunk)) this.#take(bytes);
    }
    if (!signal.aborted) throw new DeviceGone(`${this.#port.path} closed`);
  }

  #take(bytes: Uint8Array): void {
    try {
      this.#answer?.(parseSmpPacket(bytes));
    } catch (error) {
      if (!(error instanceof SyntaxInvalid)) throw error;
      this.#framer.counters.bad += 1;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#scope[Symbol.asyncDispose]();
  }
}

function checked(body: SmpBody): SmpBody {
  const reason = body.get("rsn");
  const text = typeof reason === "string" ? reason : undefined;
  const error = body.get("err");
  if (error instanceof Map) {
    const rc: unknown = error.get("rc");
    const group: unknown = error.get("group");
    throw new SmpError(typeof rc === "number" ? rc : 1, typeof group === "number" ? group : undefined, text);
  }
  const rc = body.get("rc");
  if (typeof rc === "number" && rc !== 0) throw new SmpError(rc, undefined, text);
  return body;
}
