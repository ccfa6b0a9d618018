/** A generator of numbers in [0, 1) that a seed repeats (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export interface FrameFaults {
  frames: number;
  damaged: number;
  dropped: number;
  doubled: number;
  merged: number;
}

/** Harms this share of frames (cut at their zero bytes), in equal parts by a changed byte, loss, doubling, a lost end. */
export function frameFaults(
  share: number,
  random: () => number,
): { readonly pass: (bytes: Uint8Array) => Uint8Array; readonly counts: FrameFaults } {
  const counts: FrameFaults = { frames: 0, damaged: 0, dropped: 0, doubled: 0, merged: 0 };
  let held = Buffer.alloc(0);
  const harm = (frame: Buffer): Uint8Array => {
    counts.frames += 1;
    if (random() >= share) return frame;
    switch (Math.floor(random() * 4)) {
      case 0: {
        counts.damaged += 1;
        const changed = Buffer.from(frame);
        const at = Math.floor(random() * (frame.length - 1));
        changed[at] = (changed[at] ?? 0) ^ (1 << Math.floor(random() * 8));
        return changed;
      }
      case 1:
        counts.dropped += 1;
        return Buffer.alloc(0);
      case 2:
        counts.doubled += 1;
        return Buffer.concat([frame, frame]);
      default:
        counts.merged += 1;
        return frame.subarray(0, -1);
    }
  };
  const pass = (bytes: Uint8Array): Uint8Array => {
    held = Buffer.concat([held, bytes]);
    const out: Uint8Array[] = [];
    for (let end = held.indexOf(0); end !== -1; end = held.indexOf(0)) {
      const frame = held.subarray(0, end + 1);
      out.push(frame.length > 1 ? harm(frame) : frame);
      held = held.subarray(end + 1);
    }
    return Buffer.concat(out);
  };
  return { pass, counts };
}

/** Changes this share of bytes, each to any other value or to nothing. */
export function byteFaults(share: number, random: () => number): (bytes: Uint8Array) => Uint8Array {
  return (bytes) => {
    const out: number[] = [];
    for (const byte of bytes) {
      if (random() >= share) out.push(byte);
      else if (random() < 0.75) out.push(Math.floor(random() * 256));
    }
    return Uint8Array.from(out);
  };
}
