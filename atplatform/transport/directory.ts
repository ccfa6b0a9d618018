import { type Clock, systemClock } from "../../core/clock.js";
import { fromUtf8 } from "../../core/bytes.js";
import { withDeadline } from "../../core/deadline.js";
import { LineFramer } from "../../core/line-framer.js";
import { untilAborted } from "../../core/scope.js";
import type { AtSign } from "../protocol/at-sign.js";
import { AtSignUnknown, ConnectFailed } from "./errors.js";
import { formatHostPort, type HostPort, parseHostPort } from "./host-port.js";
import type { TlsChannel } from "./tls-channel.js";

/** Where atSigns are looked up; `proxy` means: nowhere, every atSign is reached at this one address. */
export interface DirectoryAddress extends HostPort {
  readonly kind: "directory" | "proxy";
}

const DEFAULT_PORT = 64;

/** `root.atsign.org:64`, the port may be left out; or `proxy:<host>[:<port>]`. @throws {SyntaxInvalid} */
export function parseDirectoryAddress(text: string): DirectoryAddress {
  const isProxy = text.startsWith("proxy:");
  const address = parseHostPort(isProxy ? text.slice("proxy:".length) : text, DEFAULT_PORT);
  return { kind: isProxy ? "proxy" : "directory", ...address };
}

export type Connect = (to: HostPort, signal: AbortSignal) => Promise<TlsChannel>;

export interface DirectoryOptions {
  readonly address: DirectoryAddress;
  readonly connect: Connect;
  readonly clock?: Clock;
  readonly answerTimeoutMs?: number;
  readonly cacheMs?: number;
}

const MAX_CACHED = 1000;
const MAX_ANSWER_BYTES = 1024;

/** Says where the atServer of an atSign is, and remembers it for a while (client.md, 3.1). */
export class Directory {
  readonly #address: DirectoryAddress;
  readonly #connect: Connect;
  readonly #clock: Clock;
  readonly #answerTimeoutMs: number;
  readonly #cacheMs: number;
  readonly #cache = new Map<AtSign, { readonly address: HostPort; readonly atMs: number }>();

  constructor({
    address,
    connect,
    clock = systemClock,
    answerTimeoutMs = 10_000,
    cacheMs = 3_600_000,
  }: DirectoryOptions) {
    this.#address = address;
    this.#connect = connect;
    this.#clock = clock;
    this.#answerTimeoutMs = answerTimeoutMs;
    this.#cacheMs = cacheMs;
  }

  /** @throws {AtSignUnknown} when there is no such atSign; what `connect` throws; `TimedOut`. */
  async find(atSign: AtSign, signal: AbortSignal): Promise<HostPort> {
    if (this.#address.kind === "proxy") return this.#address;
    const cached = this.#cache.get(atSign);
    if (cached && this.#clock.monotonicMs() - cached.atMs < this.#cacheMs) return cached.address;
    const address = await this.#ask(atSign, signal);
    if (this.#cache.size >= MAX_CACHED) this.#cache.clear();
    this.#cache.set(atSign, { address, atMs: this.#clock.monotonicMs() });
    return address;
  }

  /** Whether {@link find} would answer from memory, perhaps with what is true no more. */
  remembers(atSign: AtSign): boolean {
    return this.#cache.has(atSign);
  }

  /** To be called when a connection to the address failed: the atServer may have moved. */
  forget(atSign: AtSign): void {
    this.#cache.delete(atSign);
  }

  async #ask(atSign: AtSign, signal: AbortSignal): Promise<HostPort> {
    await using channel = await this.#connect(this.#address, signal);
    const what = `the answer of the directory for ${atSign}`;
    const options = { clock: this.#clock, timeoutMs: this.#answerTimeoutMs, what };
    const answer = await withDeadline((signal) => askOne(channel, atSign, signal), options, signal);
    if (answer === "null") throw new AtSignUnknown(`${formatHostPort(this.#address)} knows no atSign ${atSign}`);
    try {
      return parseHostPort(answer);
    } catch (cause) {
      throw new ConnectFailed("the directory answered with no address", { cause });
    }
  }
}

/** The answer without prompts; `null` for an unknown atSign. */
async function askOne(channel: TlsChannel, atSign: AtSign, signal: AbortSignal): Promise<string> {
  const framer = new LineFramer({ maxBytes: MAX_ANSWER_BYTES });
  const answered = new Promise<string>((resolve, reject) => {
    const read = channel.read((chunk) => {
      const line = framer.push(chunk)[0];
      if (line) resolve(fromUtf8(line).replaceAll("@", "").trim());
    });
    read.then(() => reject(channel.lost), reject);
  });
  const written = channel.write(`${atSign.slice(1)}\n`, signal);
  await untilAborted(Promise.race([answered, written.then(() => answered)]), signal);
  const answer = await answered;
  channel.end("@exit\n");
  return answer;
}
