import { createHash, randomBytes } from "node:crypto";
import { readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import * as v from "valibot";
import { codeOf } from "../../core/errors.js";

const FILE = "mqtt-session.json";

const sessionSchema = v.object({
  seed: v.string(),
  clientId: v.string(),
  filters: v.array(v.string()),
  followed: v.array(v.string()),
});

type Kept = v.InferOutput<typeof sessionSchema>;

export interface SessionOptions {
  /** The driver's own folder. */
  readonly stateDir: string;
  /** {@link readMachineId} */
  readonly machineId: string;
  /** As configured. */
  readonly clientId?: string | undefined;
}

/**
 * What we have to know of the session that the broker keeps for us: its name, the same after every restart, and what is
 * subscribed in it, so that what the configuration names no more can be taken out. The name is derived from a number
 * that is drawn once and the machine's id: on a copied card it is another, and the two do not push each other out.
 */
export async function openSession({ stateDir, machineId, clientId }: SessionOptions): Promise<MqttSession> {
  const path = join(stateDir, FILE);
  const kept = await readKept(path);
  const seed = kept?.seed ?? randomBytes(16).toString("hex");
  const name = clientId ?? derivedId(seed, machineId);
  const isSame = kept?.clientId === name;
  const { filters, followed } = isSame ? kept : { filters: [], followed: [] };
  return new MqttSession(path, { seed, clientId: name, filters, followed }, isSame);
}

export class MqttSession {
  readonly #path: string;
  readonly #wasKept: boolean;
  #kept: Kept;
  #isWritten: boolean;
  #writing: Promise<void> = Promise.resolve();

  constructor(path: string, kept: Kept, wasKept: boolean) {
    this.#path = path;
    this.#kept = kept;
    this.#wasKept = wasKept;
    this.#isWritten = wasKept;
  }

  get clientId(): string {
    return this.#kept.clientId;
  }

  /** The broker should know this session: we have subscribed in it before. */
  get wasKept(): boolean {
    return this.#wasKept;
  }

  /**
   * What is subscribed and not wanted any more. Topics that were followed stay, as long as something follows: they will
   * be announced again, and what is published until then must not be lost.
   */
  stale(wanted: Iterable<string>, follows: boolean): string[] {
    const still = new Set([...wanted, ...(follows ? this.#kept.followed : [])]);
    return [...this.#kept.filters, ...this.#kept.followed].filter((filter) => !still.has(filter));
  }

  /** To be called before a subscription is asked for: a crash in between must not forget it. */
  willSubscribe(filters: Iterable<string>): Promise<void> {
    return this.#keep({ filters: union(this.#kept.filters, filters) });
  }

  /** Like {@link willSubscribe}, for a topic that became known while we run. */
  willFollow(filter: string): Promise<void> {
    return this.#keep({ followed: union(this.#kept.followed, [filter]) });
  }

  /** To be called when the broker has taken them out. */
  unsubscribed(filters: readonly string[]): Promise<void> {
    const rest = (all: readonly string[]): string[] => all.filter((filter) => !filters.includes(filter));
    return this.#keep({ filters: rest(this.#kept.filters), followed: rest(this.#kept.followed) });
  }

  async #keep(change: Partial<Kept>): Promise<void> {
    const next = { ...this.#kept, ...change };
    if (JSON.stringify(next) !== JSON.stringify(this.#kept)) {
      this.#kept = next;
      this.#isWritten = false;
    }
    this.#writing = this.#writing.then(() => this.#write());
    await this.#writing;
  }

  /** Once for all changes that came while another write was under way. */
  async #write(): Promise<void> {
    if (this.#isWritten) return;
    this.#isWritten = true;
    await writeFile(`${this.#path}.new`, `${JSON.stringify(this.#kept)}\n`, { mode: 0o600 });
    await rename(`${this.#path}.new`, this.#path);
  }
}

const union = (all: readonly string[], more: Iterable<string>): string[] => [...new Set([...all, ...more])];

const derivedId = (seed: string, machineId: string): string =>
  `atedge-${createHash("sha256").update(`${seed}\n${machineId}`).digest("hex").slice(0, 16)}`;

/** `undefined` when there is none, or none that can be read: then the broker gets a new session of ours. */
async function readKept(path: string): Promise<Kept | undefined> {
  try {
    const parsed = v.safeParse(sessionSchema, JSON.parse(await readFile(path, "utf8")));
    return parsed.success ? parsed.output : undefined;
  } catch (error) {
    if (error instanceof SyntaxError || codeOf(error) === "ENOENT") return undefined;
    throw error;
  }
}
