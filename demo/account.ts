import { closeSync, openSync, writeSync } from "node:fs";

/**
 * What a sensor keeps for itself of its numbered readings: lines `sent N` and `acked N` in a file, written as they
 * happen, so that it can be read while the sensor runs.
 */
export class Account {
  readonly #fd: number | undefined;

  constructor(file: string | undefined) {
    this.#fd = file === undefined ? undefined : openSync(file, "a", 0o600);
  }

  sent(n: number): void {
    this.#line(`sent ${n}`);
  }

  acked(n: number): void {
    this.#line(`acked ${n}`);
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
  }

  #line(text: string): void {
    if (this.#fd !== undefined) writeSync(this.#fd, `${text}\n`);
  }
}

/** The numbers of an account's text. */
export function parseAccount(text: string): {
  readonly sent: ReadonlySet<number>;
  readonly acked: ReadonlySet<number>;
} {
  const sent = new Set<number>();
  const acked = new Set<number>();
  for (const [, what, n] of text.matchAll(/^(sent|acked) (\d+)$/gmu)) (what === "sent" ? sent : acked).add(Number(n));
  return { sent, acked };
}
