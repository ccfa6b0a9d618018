export interface BackoffOptions {
  readonly firstMs: number;
  readonly maxMs: number;
  readonly factor?: number;
  /** A number in [0, 1); `Math.random` unless given. */
  readonly random?: () => number;
}

/**
 * Waits in milliseconds for ever, with full jitter: each is uniform in [0, cap), and the cap grows from `firstMs` by
 * `factor` (2) up to `maxMs`. A fleet that lost its link at one second does not come back at one second.
 */
export function* backoff({
  firstMs,
  maxMs,
  factor = 2,
  random = Math.random,
}: BackoffOptions): Generator<number, never> {
  for (let capMs = firstMs; ; capMs = Math.min(capMs * factor, maxMs)) yield Math.round(random() * capMs);
}
