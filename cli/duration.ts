import { InvalidArgumentError } from "commander";

const UNITS_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };
const MOST_MS = 10 * 365 * 86_400_000;

/** Milliseconds of `90s`, `10m`, `1h30m`, `2d`. */
export function parseDuration(text: string): number {
  const isDuration = /^(?:\d{1,9}(?:ms|s|m|h|d))+$/u.test(text);
  const parts = isDuration ? [...text.matchAll(/(\d+)(ms|s|m|h|d)/gu)] : [];
  const ms = parts.reduce((sum, [, count, unit = ""]) => sum + Number(count) * (UNITS_MS[unit] ?? 0), 0);
  if (ms > 0 && ms <= MOST_MS) return ms;
  throw new InvalidArgumentError("Expected a duration such as 90s, 10m, 1h30m or 2d.");
}

/** The other way round, in its largest units: `1h30m`. */
export function formatDuration(ms: number): string {
  let left = Math.round(ms / 1000);
  let text = "";
  for (const [unit, seconds] of [
    ["d", 86_400],
    ["h", 3600],
    ["m", 60],
    ["s", 1],
  ] as const) {
    const count = Math.floor(left / seconds);
    left -= count * seconds;
    if (count > 0) text += `${count}${unit}`;
  }
  return text === "" ? "0s" : text;
}
