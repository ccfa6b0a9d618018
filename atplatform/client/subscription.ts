import type { Clock } from "../../core/clock.js";
import { codeOf, EdgeError } from "../../core/errors.js";
import type { Log } from "../../core/log.js";
import { TaskGroup } from "../../core/scope.js";
import type { AtSign } from "../protocol/at-sign.js";
import { monitor } from "../protocol/verbs/monitor.js";
import { noop } from "../protocol/verbs/noop.js";
import type { Connection } from "./connection.js";
import type { Dialer } from "./dialer.js";
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
  /** The atServer's last commit id, with every change and every 15 s, whatever the expression is. */
  readonly onStats?: (commitId: number) => void;
}

export interface SubscriptionHealth {
  readonly state: "connecting" | "live" | "waiting" | "refused" | "ended";
  readonly connections: number;
  readonly received: number;
  /** Dropped, as they had come before. */
  readonly repeats: number;
  /** Dropped, as they made no sense. */
  readonly invalid: number;
  readonly lastErrorCode?: string;
}

export interface SubscriptionDeps {
  readonly atSign: AtSign;
  readonly dialer: Dialer;
  readonly clock: Clock;
  readonly log: Log;
  readonly onSharedKey: (from: AtSign) => void;
  readonly reconnect?: Reconnect | undefined;
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
  #lastErrorCode: string | undefined;
  #savedMs = -Infinity;

  constructor(deps: SubscriptionDeps, options: SubscribeOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#pacer = new Pacer(deps.clock, { reconnect: deps.reconnect });
  }

  get health(): SubscriptionHealth {
    return {
      state: this.#pacer.refused && this.#state === "waiting" ? "refused" : this.#state,
      connections: this.#connections,
      received: this.#received,
      repeats: this.#repeats,
      invalid: this.#invalid,
      ...(this.#lastErrorCode !== undefined && { lastErrorCode: this.#lastErrorCode }),
    };
  }

  /** Ends when `signal` aborts. @throws what the resume store throws. */
  async *run(signal: AbortSignal): AsyncGenerator<Notification, void> {
    const window = new SeenWindow(await this.#options.resume?.load(signal));
    if (!window.point && typeof this.#options.since === "number") window.reached(this.#options.since);
    try {
      while (!signal.aborted) {
        try {
          yield* this.#runOnce(window, signal);
        } catch (error) {
          if (isAborted(signal)) return;
          this.#failed(error);
        }
        await this.#save(window, true);
        this.#state = "waiting";
        await this.#pacer.wait(signal).catch(() => undefined);
      }
    } finally {
      this.#state = "ended";
      await this.#save(window, true);
    }
  }

  /** One connection, until it is lost. */
  async *#runOnce(window: SeenWindow, signal: AbortSignal): AsyncGenerator<Notification, void> {
    this.#state = "connecting";
    const inbox = new Inbox(MAX_WAITING);
    await using connection = await this.#deps.dialer.dial({ onNotification: (body) => inbox.put(body) }, signal);
    this.#connections += 1;
    this.#pacer.connected();
    await connection.post(this.#monitorLine(window), signal);
    this.#state = "live";
    this.#deps.log.info({ connections: this.#connections }, "the monitor connection is live");
    await using tasks = new TaskGroup(signal);
    tasks.start(async (signal) => inbox.end(await connection.closed(signal)));
    tasks.start((signal) => this.#beat(connection, inbox, signal));
    tasks.start((signal) => this.#proveLive(connection, signal));
    for (;;) {
      const body = await inbox.take(tasks.signal);
      const notification = this.#accept(body, window);
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

  #monitorLine(window: SeenWindow): string {
    const { regex, selfNotifications = false, resume, since } = this.#options;
    const fromStored = since === "stored" || (since === undefined && resume !== undefined);
    const epochMillis = window.resumeFromMs ?? (fromStored ? 0 : undefined);
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
  #accept(body: string, window: SeenWindow): Notification | undefined {
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
        // What came before it has been handled by now.
        window.reached(message.epochMillis);
        this.#options.onStats?.(message.commitId);
        return undefined;
      case "sharedKey":
        onSharedKey(message.from);
        return undefined;
      case "notification":
        if (window.has(message.notification)) {
          this.#repeats += 1;
          return undefined;
        }
        this.#received += 1;
        return message.notification;
    }
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
      await this.#deps.clock.sleep(HEARTBEAT_MS, signal);
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

const ignore = (): void => undefined;

// A loop condition would tell the compiler that it cannot have changed.
const isAborted = (signal: AbortSignal): boolean => signal.aborted;

/** Lines between the connection, which pushes, and the application, which pulls. */
class Inbox {
  readonly #max: number;
  readonly #waiting: string[] = [];
  #ended: Error | undefined;
  #arrived = ignore;
  #drained = ignore;

  constructor(max: number) {
    this.#max = max;
  }

  get full(): boolean {
    return this.#waiting.length >= this.#max;
  }

  /** Adds a line; the promise tells the reader to stop until there is room. */
  put(body: string): Promise<void> | undefined {
    this.#waiting.push(body);
    this.#arrived();
    if (!this.full) return undefined;
    const previous = this.#drained;
    return new Promise((resolve) => {
      this.#drained = () => {
        previous();
        resolve();
      };
    });
  }

  /** Lets the connection be read from again. */
  #release(): void {
    const drained = this.#drained;
    this.#drained = ignore;
    drained();
  }

  /** No more will come. */
  end(reason: Error): void {
    this.#ended = reason;
    this.#arrived();
  }

  /** The next line; after the last one, throws why there are no more. */
  async take(signal: AbortSignal): Promise<string> {
    for (;;) {
      const body = this.#waiting.shift();
      if (body !== undefined) {
        if (!this.full) this.#release();
        return body;
      }
      if (this.#ended) throw this.#ended;
      signal.throwIfAborted();
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          signal.removeEventListener("abort", wake);
          resolve();
        };
        this.#arrived = wake;
        signal.addEventListener("abort", wake, { once: true });
      });
    }
  }
}
