export interface Shown {
  readonly driver: string;
  readonly name: string;
  readonly value: number | string | boolean;
  readonly unit?: string;
  readonly timeMs: number;
}

const WIDTHS = { driver: 8, name: 24, value: 14 };

/**
 * The live view. On a terminal it redraws one table in place; in a pipe it prints a line for each new reading. Steps of
 * the demo stay above the table.
 */
export class Screen {
  readonly #out: NodeJS.WriteStream;
  readonly #latest = new Map<string, Shown>();
  #drawnLines = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(out: NodeJS.WriteStream) {
    this.#out = out;
  }

  /** Begins to redraw twice a second, so that ages move. */
  start(): void {
    if (this.#out.isTTY) this.#timer = setInterval(() => this.#redraw(), 500);
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#redraw();
    this.#drawnLines = 0;
  }

  step(text: string): void {
    this.#clear();
    this.#out.write(`${text}\n`);
    this.#redraw();
  }

  reading(shown: Shown): void {
    this.#latest.set(shown.name, shown);
    if (!this.#out.isTTY) this.#out.write(`  ${row(shown)}\n`);
  }

  #redraw(): void {
    if (!this.#out.isTTY || this.#latest.size === 0) return;
    this.#clear();
    const rows = [...this.#latest.values()]
      .sort((a, b) => `${a.driver} ${a.name}`.localeCompare(`${b.driver} ${b.name}`))
      .map((shown) => row(shown).slice(0, this.#out.columns - 1));
    this.#out.write(rows.map((line) => `${line}\n`).join(""));
    this.#drawnLines = rows.length;
  }

  #clear(): void {
    if (this.#drawnLines > 0) this.#out.write(`\u001b[${this.#drawnLines}A\u001b[J`);
    this.#drawnLines = 0;
  }
}

function row({ driver, name, value, unit, timeMs }: Shown): string {
  const number = typeof value === "number" ? String(Math.round(value * 1000) / 1000) : String(value);
  const ageMs = Math.max(0, Date.now() - timeMs);
  const age = ageMs < 10_000 ? `${(ageMs / 1000).toFixed(2)} s` : `${Math.round(ageMs / 1000)} s`;
  const cell = `${number}${unit ? ` ${unit}` : ""}`;
  return `${driver.padEnd(WIDTHS.driver)}${name.padEnd(WIDTHS.name)}${cell.padStart(WIDTHS.value)}   ${age} old`;
}
