import { createHash } from "node:crypto";
import { SyntaxInvalid, TimedOut } from "../../core/errors.js";
import type { CborInput, CborValue } from "../cbor.js";
import { FlashRefused, type FlashTarget, type Slot } from "../update/flash-target.js";
import type { Board } from "./board.js";

/** docs/reference/link.md, section 4, "Update". */
const Operation = { state: 1, begin: 2, data: 3, finish: 4, test: 5, confirm: 6, erase: 7, reset: 8 } as const;
const CODES: Readonly<Record<number, string>> = {
  1: "updates are not supported",
  2: "bad state",
  3: "flash error",
  4: "the hash differs",
  5: "the image is too large",
  6: "bad request",
};
const TIMEOUT_MS = 10_000;
/** Pieces on their way without an answer: the line stays full, and a board's queue of answers small. */
const PIECES_UNDER_WAY = 6;
const PIECE_BYTES = 448;
const SELF_TEST_TIMEOUT_MS = 10_000;

/** A board that takes firmware over its own link. The board is owned from here on. */
export function linkTarget(board: Board): FlashTarget {
  const ask = async (
    operation: keyof typeof Operation,
    fields: readonly CborInput[],
    signal: AbortSignal,
  ): Promise<readonly CborValue[]> => {
    const { code, result } = await board.update(Operation[operation], fields, TIMEOUT_MS, signal);
    if (code !== 0) throw new FlashRefused(`${operation}: ${CODES[code] ?? `code ${code}`}`);
    return result;
  };
  const offsetOf = (result: readonly CborValue[]): number => {
    const [offset] = result;
    if (typeof offset !== "number") throw new SyntaxInvalid("update: expected an offset");
    return offset;
  };

  return {
    hashOf: (image) => createHash("sha256").update(image).digest(),
    slots: async (signal) => parseSlots((await ask("state", [], signal))[0]),

    async upload(image, progress, signal) {
      const sha256 = createHash("sha256").update(image).digest();
      let offset = offsetOf(await ask("begin", [sha256, image.length], signal));
      progress(offset);
      let sent = offset;
      const underWay: { readonly end: number; readonly answer: Promise<readonly CborValue[]> }[] = [];
      while (offset < image.length) {
        for (; sent < image.length && underWay.length < PIECES_UNDER_WAY; sent = underWay.at(-1)?.end ?? sent) {
          const piece = image.subarray(sent, sent + PIECE_BYTES);
          const answer = ask("data", [sent, piece], signal);
          answer.catch(() => undefined); // the first that fails is thrown below
          underWay.push({ end: sent + piece.length, answer });
        }
        const first = underWay.shift();
        if (!first) throw new FlashRefused(`the board takes no more at byte ${offset}`);
        const next = offsetOf(await first.answer);
        if (next !== first.end) {
          // The board is elsewhere: what was sent since is of no use to it.
          await Promise.all(underWay.splice(0).map(({ answer }) => answer));
          if (next <= offset) throw new FlashRefused(`the board takes no more at byte ${offset}`);
          sent = next;
        }
        offset = next;
        progress(offset);
      }
      await ask("finish", [], signal);
    },

    test: (hash, signal) => done(ask("test", [hash], signal)),
    confirm: (hash, signal) => done(ask("confirm", [hash], signal)),
    erase: (signal) => done(ask("erase", [], signal)),

    async reset(signal) {
      try {
        await ask("reset", [], signal);
      } catch (error) {
        if (!(error instanceof TimedOut)) throw error; // it went before its answer did
      }
    },

    async selfTest(command, signal) {
      await board.call(command, {}, SELF_TEST_TIMEOUT_MS, signal);
    },

    [Symbol.asyncDispose]: () => board[Symbol.asyncDispose](),
  };
}

async function done(work: Promise<unknown>): Promise<void> {
  await work;
}

function parseSlots(value: CborValue | undefined): readonly Slot[] {
  if (!Array.isArray(value)) throw new SyntaxInvalid("update state: expected an array");
  return (value as readonly CborValue[]).map((entry) => {
    const [, version, hash, , flags] = Array.isArray(entry) ? (entry as readonly CborValue[]) : [];
    if (typeof version !== "string" || !(hash instanceof Uint8Array) || typeof flags !== "number") {
      throw new SyntaxInvalid("update state: expected [number, version, hash, size, flags] a slot");
    }
    return { version, hash, active: (flags & 1) !== 0, confirmed: (flags & 2) !== 0, pending: (flags & 4) !== 0 };
  });
}
