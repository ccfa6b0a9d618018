import { randomBytes } from "node:crypto";
import type { Clock } from "../../core/clock.js";
import { EdgeError } from "../../core/errors.js";
import type { Log } from "../../core/log.js";
import { InboundSilent } from "./errors.js";
import type { Notification } from "./notification.js";

export interface InboundHealth {
  /** Since something came on the present monitor connection, be it a stats notification; `undefined` without one. */
  readonly silentMs?: number;
  /** Notifications to ourselves that our atServer has accepted. */
  readonly probes: number;
  /** Connections that were given up as nothing came on them. */
  readonly silent: number;
  /** Why the last probe could not be sent, if it could not; says nothing about the monitor connection. */
  readonly probeErrorCode?: string;
}

export interface InboundProofOptions {
  readonly clock: Clock;
  readonly log: Log;
  /** Where probes go; left out: none are sent. */
  readonly namespace?: string | undefined;
  readonly notifySelf: (key: string, ttlnMs: number, signal: AbortSignal) => Promise<unknown>;
}

/** Three stats notifications that should have come (atserver.md, 3.21.5). */
const SILENCE_MS = 45_000;
const DEADLINE_MS = 10_000;
/** So short that a connection made later does not get it in its replay. */
const PROBE_TTLN_MS = DEADLINE_MS;
const PROBE_KEY = /^probe\.[0-9a-f]{32}\./u;

/** Sent by a client to itself to hear whether anything arrives; never for an application. */
export const isProbe = ({ from, to, key }: Notification): boolean => from === to && PROBE_KEY.test(key);

/**
 * Finds out that notifications do not arrive although the connection answers `noop`: an atServer whose monitor side
 * hangs, or has forgotten us. Stats notifications are proof enough; where there are none, one to ourselves is.
 */
export class InboundProof {
  readonly #options: InboundProofOptions;
  readonly #token = randomBytes(16).toString("hex");
  #heardMs = 0;
  #heard = 0;
  #hasStats = false;
  #probes = 0;
  #silent = 0;
  #probeErrorCode: string | undefined;

  constructor(options: InboundProofOptions) {
    this.#options = options;
  }

  health(isLive: boolean): InboundHealth {
    return {
      ...(isLive && { silentMs: this.#options.clock.monotonicMs() - this.#heardMs }),
      probes: this.#probes,
      silent: this.#silent,
      ...(this.#probeErrorCode !== undefined && { probeErrorCode: this.#probeErrorCode }),
    };
  }

  /** The expression with which our probes arrive, too. No colon and no capital: some servers change those. */
  widen(regex: string | undefined): string | undefined {
    if (regex === undefined || this.#options.namespace === undefined) return regex;
    return `${regex}|probe\\.${this.#token}\\.`;
  }

  /** A new connection; what the last one was like does not count. */
  connected(): void {
    this.#hasStats = false;
    this.heard();
  }

  heard(): void {
    this.#heard += 1;
    this.#heardMs = this.#options.clock.monotonicMs();
  }

  statsHeard(): void {
    this.#hasStats = true;
  }

  /**
   * @param isHeld whether the connection is not read from, so that silence says nothing.
   * @throws {InboundSilent}
   */
  async watch(isHeld: () => boolean, signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    for (;;) {
      const leftMs = this.#heardMs + SILENCE_MS - clock.monotonicMs();
      if (leftMs > 0) await clock.sleep(leftMs, signal);
      else if (isHeld()) await clock.sleep(DEADLINE_MS, signal);
      else await this.#prove(isHeld, signal);
    }
  }

  async #prove(isHeld: () => boolean, signal: AbortSignal): Promise<void> {
    const { clock, namespace, notifySelf, log } = this.#options;
    if (namespace === undefined) {
      // An atServer may be set to send no stats; then nobody knows. One that did send them should still.
      if (this.#hasStats) throw this.#givenUp("stats notifications do not come any more");
      return await clock.sleep(SILENCE_MS, signal);
    }
    const heardBefore = this.#heard;
    try {
      await notifySelf(`probe.${this.#token}.${namespace}`, PROBE_TTLN_MS, signal);
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof EdgeError)) throw error;
      if (error.code !== this.#probeErrorCode) log.warn({ code: error.code, namespace }, "a probe could not be sent");
      this.#probeErrorCode = error.code;
      return await clock.sleep(SILENCE_MS, signal);
    }
    this.#probes += 1;
    this.#probeErrorCode = undefined;
    await clock.sleep(DEADLINE_MS, signal);
    if (this.#heard === heardBefore && !isHeld()) {
      throw this.#givenUp(`a notification to ourselves did not come within ${DEADLINE_MS} ms`);
    }
  }

  #givenUp(message: string): InboundSilent {
    this.#silent += 1;
    return new InboundSilent(message);
  }
}
