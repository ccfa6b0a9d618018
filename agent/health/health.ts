import type { Clock } from "../../core/clock.js";
import type { HealthState } from "../../messages/info.js";

/** How a part of the agent is, as the part says it. */
export interface PartStatus {
  /** E.g. `store`, `driver.vent`. */
  readonly name: string;
  /** `degraded`: it copes and will come back by itself. `failed`: it needs a human. */
  readonly state: HealthState;
  /** Of the last error, also when it is over. */
  readonly code?: string | undefined;
  readonly counters?: Readonly<Record<string, number>>;
  /** It will not come back by itself, but would after a restart of the agent. */
  readonly restartHelps?: boolean;
}

export interface PartHealth extends PartStatus {
  /** When the state was first seen, milliseconds since 1970. */
  readonly sinceMs: number;
}

export interface AgentHealth {
  /** The worst of its parts. */
  readonly state: HealthState;
  readonly parts: readonly PartHealth[];
}

export type HealthSource = () => readonly PartStatus[];

const WORST_FIRST: readonly HealthState[] = ["failed", "degraded", "ok"];

/** The agent's health as one value, asked of its parts when somebody wants to know. */
export class HealthBoard {
  readonly #clock: Pick<Clock, "now">;
  readonly #sources: HealthSource[] = [];
  readonly #since = new Map<string, { readonly state: HealthState; readonly sinceMs: number }>();

  constructor(clock: Pick<Clock, "now">) {
    this.#clock = clock;
  }

  add(source: HealthSource): void {
    this.#sources.push(source);
  }

  /** Also notes when each part has changed: a change counts from the first look that sees it. */
  snapshot(): AgentHealth {
    const parts = this.#sources.flatMap((source) => source()).map((part) => this.#dated(part));
    const state = WORST_FIRST.find((worst) => parts.some((part) => part.state === worst)) ?? "ok";
    return { state, parts };
  }

  #dated(part: PartStatus): PartHealth {
    const known = this.#since.get(part.name);
    const sinceMs = known?.state === part.state ? known.sinceMs : this.#clock.now();
    this.#since.set(part.name, { state: part.state, sinceMs });
    return { ...part, sinceMs };
  }
}
