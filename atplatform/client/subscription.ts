import type { Clock } from "../../core/clock.js";
import { codeOf, EdgeError } from "../../core/errors.js";
import type { Log } from "../../core/log.js";
import { ChildSignal, TaskGroup } from "../../core/scope.js";
import type { AtSign } from "../protocol/at-sign.js";
import { monitor } from "../protocol/verbs/monitor.js";
import { noop } from "../protocol/verbs/noop.js";
import { CatchUp } from "./catch-up.js";
import type { Connection } from "./connection.js";
import type { Dialer } from "./dialer.js";
import { type InboundHealth, InboundProof, isProbe } from "./inbound-proof.js";
import { Inbox, type InboxLine } from "./inbox.js";
import { type MonitorMessage, type Notification, parseMonitorMessage } from "./notification.js";
import { Pacer, type Reconnect } from "./pacer.js";
import { type ResumePoint, SeenWindow } from "./seen-window.js";

/** Where the application keeps the place at which a subscription goes on after a restart. */
export interface ResumeStore {
  load(signal: AbortSignal): Promise<ResumePoint | undefined>;
  save(point: ResumePoint, signal: AbortSignal): Promise<void>;
}

export interface SubscribeOptions {
  /** Searched for in `@to:key@from` and in the sender without its `@`. Left out: everything. */
  readonly regex?: string;
  /** Left out: the place is forgotten at the end. */
  readonly resume?: ResumeStore;
  /** Also what the atSign tells itself, enrolment requests above all. */
  readonly selfNotifications?: boolean;
  /**
   * Where to begin when `resume` knows nothing: with `stored` ones that have not expired (default when `resume` is
   * given), with those after a time by the atServer's clock, or with `live` ones only.
   */
  readonly since?: "stored" | "live" | number;
  /** Each time when a connection is known to hear what comes. */
  readonly onLive?: () => void;
  /**
   * A namespace that these keys may write to. Given, a monitor connection on which nothing came for 45 s must show a
   * notification to ourselves, `probe.<random>.<namespace>`, which no application sees; otherwise it is replaced.
   */
  readonly probeNamespace?: string;
  /**
   * Ask every ten minutes, and soon after a burst, for what has come since: the reference atServer loses live ones on
   * connections that have an enrolment. On with keys that have one, unless false.
   */
  readonly catchUp?: boolean;
  /** By how much the checks that the connection lives are stretched, to save data; 1 unless given. */
  readonly stretch?: () => number;
  /** The atServer's last commit id and its clock, with every change and every 15 s, whatever the expression is. */
  readonly onStats?: (commitId: number, epochMillis: number) => void;
}

export interface SubscriptionHealth {
  readonly state: "connecting" | "live" | "waiting" | "refused" | "ended";
  readonly connections: number;
  readonly received: number;
  /** Dropped, as they had come before. */
  readonly repeats: number;
  /** Dropped, as they made no sense. */
  readonly invalid: number;
  /** Those that had not come by themselves. */
  readonly recovered: number;
  readonly inbound: InboundHealth;
  readonly lastErrorCode?: string;
}

export interface SubscriptionDeps {
  readonly atSign: AtSign;
  readonly dialer: Dialer;
  readonly clock: Clock;
  readonly log: Log;
  readonly onSharedKey: (from: AtSign) => void;
  readonly reconnect?: Reconnect | undefined;
  readonly hasEnrollment: boolean;
  /** Sends a notification without a value to ourselves. */
  readonly notifySelf: (key: string, ttlnMs: number, signal: AbortSignal) => Promise<unknown>;
}

const HEARTBEAT_MS = 15_000;
const HEARTBEAT_TIMEOUT_MS = 5_000;
const SAVE_EVERY_MS = 2_000;
/** Notifications that wait for a slow application; then the connection is not read from any more. */
const MAX_WAITING = 256;

/**
 * Notifications of one atSign, for ever: on a monitor connection of its own, which is made anew after a loss and goes on
 * where the last one was. One counts as handled when the application asks for the next, so a crash loses none.
 */
export class Subscription {
  readonly #deps: SubscriptionDeps;
  readonly #options: SubscribeOptions;
  readonly #pacer: Pacer;
  #state: SubscriptionHealth["state"] = "connecting";
  #connections = 0;
  #received = 0;
  #repeats = 0;
  #invalid = 0;
  #recovered = 0;
  readonly #proof: InboundProof;
  readonly #catchUp: CatchUp;
  #lastErrorCode: string | undefined;
  #savedMs = -Infinity;
  #connection: Connection | undefined;
  /** Counts {@link renew}. */
  #generation = 0;
  #wake = (): void => undefined;

  constructor(deps: SubscriptionDeps, options: SubscribeOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#pacer = new Pacer(deps.clock, { reconnect: deps.reconnect });
    const { clock, log, dialer, notifySelf } = deps;
    this.#proof = new InboundProof({ clock, log, namespace: options.probeNamespace, notifySelf });
    this.#catchUp = new CatchUp({ clock, log, dialer, lineFrom: (epochMillis) => this.#monitorLine(epochMillis) });
  }

  get health(): SubscriptionHealth {
    return {
      state: this.#pacer.refused && this.#state === "waiting" ? "refused" : this.#state,
      connections: this.#connections,
      received: this.#received,
      repeats: this.#repeats,
      invalid: this.#invalid,
      recovered: this.#recovered,
      inbound: this.#proof.health(this.#state === "live"),
      ...(this.#lastErrorCode !== undefined && { lastErrorCode: this.#lastErrorCode }),
    };
  }

  /** Ends when `signal` aborts. @throws what the resume store throws. */
  async *run(signal: AbortSignal): AsyncGenerator<Notification, void> {
    const window = new SeenWindow(await this.#options.resume?.load(signal));
    if (!window.point && typeof this.#options.since === "number") window.reached(this.#options.since);
    try {
      while (!signal.aborted) {
        const generation = this.#generation;
        try {
          yield* this.#runOnce(window, signal);
        } catch (error) {
          if (isAborted(signal)) return;
          if (generation === this.#generation) this.#failed(error);
        }
        this.#connection = undefined;
        await this.#save(window, true);
        this.#state = "waiting";
        await this.#pause(signal);
      }
    } finally {
      this.#state = "ended";
      await this.#save(window, true);
    }
  }

  /** A new connection takes the place of the present one, at once. */
  renew(): void {
    this.#generation += 1;
    this.#pacer.reset();
    this.#wake();
    void this.#connection?.[Symbol.asyncDispose]();
  }

  async #pause(signal: AbortSignal): Promise<void> {
    await using child = new ChildSignal(signal);
    this.#wake = () => child.abort();
    await this.#pacer.wait(child.signal).catch(() => undefined);
  }

  /** One connection, until it is lost. */
  async *#runOnce(window: SeenWindow, signal: AbortSignal): AsyncGenerator<Notification, void> {
    this.#state = "connecting";
    const inbox = new Inbox(MAX_WAITING);
    const onNotification = (body: string): Promise<void> | undefined => {
      this.#proof.heard();
      return inbox.put({ body, source: "monitor" });
    };
    const generation = this.#generation;
    await using connection = await this.#deps.dialer.dial({ onNotification }, signal);
    this.#connection = connection;
    if (generation !== this.#generation) return;
    this.#connections += 1;
    this.#pacer.connected();
    this.#proof.connected();
    this.#catchUp.connected(window);
    await connection.post(this.#monitorLine(this.#fromMs(window)), signal);
    this.#state = "live";
    this.#deps.log.info({ connections: this.#connections }, "the monitor connection is live");
    await using tasks = new TaskGroup(signal);
    tasks.start(async (signal) => inbox.end(await connection.closed(signal)));
    tasks.start((signal) => this.#beat(connection, inbox, signal));
    tasks.start((signal) => this.#proveLive(connection, signal));
    tasks.start((signal) => this.#proof.watch(() => inbox.full, signal));
    const { catchUp = this.#deps.hasEnrollment } = this.#options;
    if (catchUp) tasks.start((signal) => this.#catchUp.run(window, inbox, signal));
    for (;;) {
      const line = await inbox.take(tasks.signal);
      const notification = this.#accept(line, window);
      if (!notification) continue;
      yield notification;
      window.add(notification);
      await this.#save(window, false);
    }
  }

  #failed(error: unknown): void {
    if (!(error instanceof EdgeError)) throw error;
    const { log } = this.#deps;
    this.#lastErrorCode = error.code;
    this.#pacer.failed(error);
    if (this.#pacer.refused) log.error({ err: error }, "the atServer refuses these keys");
    else log.info({ code: error.code, waitMs: this.#pacer.waitMs }, "the monitor connection was lost");
  }

  /** From when on the atServer is to replay; `undefined`: not at all. */
  #fromMs(window: SeenWindow): number | undefined {
    const { resume, since } = this.#options;
    const fromStored = since === "stored" || (since === undefined && resume !== undefined);
    return window.resumeFromMs ?? (fromStored ? 0 : undefined);
  }

  #monitorLine(epochMillis: number | undefined): string {
    const { selfNotifications = false } = this.#options;
    const regex = this.#proof.widen(this.#options.regex);
    // Without a colon in the command an atServer takes the expression in lower case.
    const strict = epochMillis === undefined && !selfNotifications && regex !== undefined && !/^[^A-Z:]*$/u.test(regex);
    return monitor.format({
      strict,
      selfNotifications,
      multiplexed: false,
      ...(epochMillis !== undefined && { epochMillis }),
      ...(regex !== undefined && { regex }),
    });
  }

  /** The notification, when it is one for the application and has not been there before. */
  #accept({ body, source }: InboxLine, window: SeenWindow): Notification | undefined {
    const { atSign, log, onSharedKey } = this.#deps;
    let message: MonitorMessage;
    try {
      message = parseMonitorMessage(body, atSign);
    } catch (error) {
      if (!(error instanceof EdgeError)) throw error;
      this.#invalid += 1;
      log.debug({ code: codeOf(error), reason: error.message }, "a notification was dropped");
      return undefined;
    }
    switch (message.type) {
      case "stats":
        if (source === "catchUp") return undefined;
        this.#proof.statsHeard();
        this.#catchUp.begin(message.epochMillis);
        // What came before it has been handled by now.
        window.reached(message.epochMillis);
        this.#options.onStats?.(message.commitId, message.epochMillis);
        return undefined;
      case "sharedKey":
        onSharedKey(message.from);
        return undefined;
      case "notification":
        return this.#fresh(message.notification, source, window);
    }
  }

  #fresh(notification: Notification, source: InboxLine["source"], window: SeenWindow): Notification | undefined {
    const isRepeat = window.has(notification);
    if (source === "monitor") this.#catchUp.saw(notification, isRepeat);
    if (isProbe(notification)) {
      // Another device of the atSign, or another subscription, has sent it; or we have, and it was heard.
      if (source === "monitor") window.reached(notification.epochMillis);
      return undefined;
    }
    if (isRepeat) {
      if (source === "monitor") this.#repeats += 1;
      return undefined;
    }
    this.#received += 1;
    if (source === "catchUp") {
      this.#recovered += 1;
      this.#deps.log.info({ id: notification.id }, "a notification had not come by itself");
    }
    return notification;
  }

  /** `monitor` is not answered; but commands are carried out in order, so it is in force when the next one is. */
  async #proveLive(connection: Connection, signal: AbortSignal): Promise<void> {
    const { onLive } = this.#options;
    if (!onLive) return;
    await connection.send(noop.format({ delayMs: 0 }), { timeoutMs: HEARTBEAT_TIMEOUT_MS }, signal);
    onLive();
  }

  /** Finds out that a connection is dead although nobody has said so. */
  async #beat(connection: Connection, inbox: Inbox, signal: AbortSignal): Promise<void> {
    for (;;) {
      await this.#deps.clock.sleep(HEARTBEAT_MS * (this.#options.stretch?.() ?? 1), signal);
      if (inbox.full) continue; // nothing is read now, so no answer would be either
      await connection.send(noop.format({ delayMs: 0 }), { timeoutMs: HEARTBEAT_TIMEOUT_MS }, signal);
    }
  }

  async #save(window: SeenWindow, now: boolean): Promise<void> {
    const { resume } = this.#options;
    const { point } = window;
    const nowMs = this.#deps.clock.monotonicMs();
    if (!resume || !point || (!now && nowMs - this.#savedMs < SAVE_EVERY_MS)) return;
    this.#savedMs = nowMs;
    // With a signal of its own: the last save comes after the abort.
    await resume.save(point, new AbortController().signal);
  }
}

// A loop condition would tell the compiler that it cannot have changed.
const isAborted = (signal: AbortSignal): boolean => signal.aborted;
