import type { TlsChannel } from "./tls-channel.js";

/** Reading pauses while this much waits for a slow consumer. */
const MAX_WAITING = 16;
const MAX_WAITING_BYTES = 64 * 1024;

/**
 * What a framer cuts from a channel, in order, one at a time. Ends when the peer has ended or `signal` aborts; a throw of
 * the framer comes after what was cut before it. The channel is read no faster than the consumer asks; once the consumer
 * has left, what still comes is thrown away.
 */
export async function* pull<T>(
  channel: TlsChannel,
  cut: (chunk: Buffer, into: T[]) => void,
  signal: AbortSignal,
): AsyncGenerator<T, void> {
  const waiting: T[] = [];
  let waitingBytes = 0;
  let failure: { readonly error: unknown } | undefined;
  let ended = signal.aborted;
  let wake = (): void => {};
  let resume = (): void => {};
  const onChunk = (chunk: Buffer): void | Promise<void> => {
    if (failure || ended) return;
    try {
      cut(chunk, waiting);
    } catch (error) {
      failure = { error };
    }
    waitingBytes += chunk.length;
    wake();
    if (waiting.length < MAX_WAITING && (waiting.length === 0 || waitingBytes < MAX_WAITING_BYTES)) return;
    return new Promise<void>((resolve) => (resume = resolve));
  };
  const end = (): void => {
    ended = true;
    wake();
    resume();
  };
  signal.addEventListener("abort", end, { once: true });
  void channel.read(onChunk).then(end, end);
  try {
    for (;;) {
      const next = waiting.shift();
      if (next !== undefined) {
        yield next;
      } else if (failure) {
        throw failure.error;
      } else if (ended) {
        return;
      } else {
        waitingBytes = 0;
        resume();
        await new Promise<void>((resolve) => (wake = resolve));
      }
    }
  } finally {
    end();
    signal.removeEventListener("abort", end);
  }
}
