import { randomUUID } from "node:crypto";
import type { NotificationStatus } from "../../atplatform/client/at-client.js";
import { parseAtSign } from "../../atplatform/protocol/at-sign.js";
import { backoff } from "../../core/backoff.js";
import { codeOf } from "../../core/errors.js";
import { atStep } from "../../core/steps.js";
import { atKeyOf } from "../../messages/names.js";
import { seal } from "../../messages/seal.js";
import type { PendingAnswer } from "../store/answers.js";
import { MAX_BLAMED_TRIES } from "./stream-uplink.js";
import { blamesMessage, type UplinkContext } from "./uplink-client.js";
import { Wake } from "./wake.js";

export interface AnswerHealth {
  readonly code: string | undefined;
  readonly waiting: number;
  readonly counters: Readonly<Record<string, number>>;
}

interface Attempt {
  dueMs: number;
  readonly waits: Iterator<number>;
  blamed: number;
}

const RETRY = { firstMs: 500, maxMs: 30_000 };
const LOOK_MS = 500;

/** Sends answers to commands until the callers' atServers have them, or nobody waits any more. */
export class AnswerUplink {
  readonly #context: UplinkContext;
  readonly #wake = new Wake();
  readonly #attempts = new Map<number, Attempt>();
  readonly #counters = { sent: 0, delivered: 0, expired: 0, aside: 0 };
  #code: string | undefined;

  constructor(context: UplinkContext) {
    this.#context = context;
  }

  get health(): AnswerHealth {
    return { code: this.#code, waiting: this.#attempts.size, counters: this.#counters };
  }

  /** Returns when `signal` aborts. @throws what the store throws. */
  async run(signal: AbortSignal): Promise<void> {
    const { store, clock } = this.#context;
    const unlisten = store.answers.listen(() => this.#wake.wake());
    try {
      while (!signal.aborted) {
        const pending = store.answers.pending();
        for (const answer of pending) await this.#advance(answer, signal);
        for (const id of this.#attempts.keys())
          if (!pending.some((answer) => answer.id === id)) this.#attempts.delete(id);
        await this.#wake.wait(this.#idleMs(), clock, signal);
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      unlisten();
    }
  }

  /** One step with one answer: drop it, send it, or ask what became of it. */
  async #advance(answer: PendingAnswer, signal: AbortSignal): Promise<void> {
    const { store, clock, log } = this.#context;
    const nowMs = clock.monotonicMs();
    if (answer.expiresMs <= clock.now()) return this.#end(answer, "expired");
    const attempt = this.#attempts.get(answer.id) ?? { dueMs: -Infinity, waits: backoff(RETRY), blamed: 0 };
    this.#attempts.set(answer.id, attempt);
    if (attempt.dueMs > nowMs) return;
    try {
      if (answer.notificationId === undefined) await this.#send(answer, signal);
      else if (await this.#isDelivered(answer.notificationId, answer, signal))
        return await this.#end(answer, "delivered");
      this.#code = undefined;
      attempt.dueMs = nowMs + LOOK_MS + Number(attempt.waits.next().value);
    } catch (error) {
      if (signal.aborted || store.isBrokenBy(error)) throw error;
      this.#code = codeOf(error) ?? "UNEXPECTED";
      attempt.dueMs = nowMs + Number(attempt.waits.next().value);
      if (blamesMessage(this.#code)) attempt.blamed += 1;
      if (attempt.blamed < MAX_BLAMED_TRIES) return;
      log.error({ err: error, to: answer.to, name: answer.name }, "an answer can never be sent: set aside");
      this.#attempts.delete(answer.id);
      this.#counters.aside += 1;
      const why = error instanceof Error ? error.message : String(error);
      await store.answers.setAside(answer, why, Math.round(clock.now()), (entry) => store.setAside.add(entry));
    }
  }

  async #send({ id, to, name, body, sealed, expiresMs }: PendingAnswer, signal: AbortSignal): Promise<void> {
    const { client, clock, store, us, keysOf } = this.#context;
    const peer = parseAtSign(to);
    const ttlnMs = Math.max(1000, Math.ceil(expiresMs - clock.now()));
    const aesKey = sealed ? await keysOf(peer).forSending(signal) : undefined;
    const value = aesKey ? seal(body, atKeyOf(to, name, us), aesKey) : JSON.stringify(body);
    const notification = {
      id: randomUUID(),
      to: peer,
      key: name,
      value,
      ttlnMs,
      ...(aesKey && { encryptWith: aesKey }),
    };
    await store.answers.sent(id, await atStep("answer.send", () => client.notify(notification, signal)));
    this.#counters.sent += 1;
  }

  async #isDelivered(notificationId: string, answer: PendingAnswer, signal: AbortSignal): Promise<boolean> {
    const { client, store } = this.#context;
    const ask = (): Promise<NotificationStatus> => client.notificationStatus(notificationId, signal);
    const status = await atStep("answer.status", ask).catch((error: unknown) => {
      // An atServer that does not know the question: that it took the answer is all that can be known.
      if (blamesMessage(codeOf(error))) return "delivered";
      throw error;
    });
    if (status === "delivered") return true;
    // Our atServer has given it up: it is sent again, as long as somebody may wait for it.
    if (status === "expired" || status === "unknown") await store.answers.unsent(answer.id);
    return false;
  }

  async #end({ id }: PendingAnswer, how: "delivered" | "expired"): Promise<void> {
    this.#attempts.delete(id);
    this.#counters[how] += 1;
    await this.#context.store.answers.done(id);
  }

  #idleMs(): number | undefined {
    const due = [...this.#attempts.values()].map(({ dueMs }) => dueMs);
    return due.length === 0 ? undefined : Math.max(0, Math.min(...due) - this.#context.clock.monotonicMs());
  }
}
