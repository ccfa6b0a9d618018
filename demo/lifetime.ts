import { fstatSync } from "node:fs";

/**
 * Aborts at SIGTERM, SIGINT, or when the parent that holds our standard input goes away: a demo process never outlives
 * the demo.
 */
export function untilToldToEnd(): AbortSignal {
  const end = new AbortController();
  const stop = (): void => {
    end.abort();
    process.stdin.destroy();
  };
  process.once("SIGTERM", stop);
  process.once("SIGINT", stop);
  const stdin = fstatSync(0);
  if (stdin.isFIFO() || stdin.isSocket()) {
    process.stdin.once("close", stop);
    process.stdin.once("end", stop);
    process.stdin.resume();
  }
  return end.signal;
}

/** One JSON line on standard output, for the parent. */
export function tellParent(fact: Readonly<Record<string, unknown>>): void {
  process.stdout.write(`${JSON.stringify(fact)}\n`);
}
