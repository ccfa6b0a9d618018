import { closeSync, constants, openSync, readdirSync, readlinkSync, writeSync } from "node:fs";
import type { Readable } from "node:stream";
import * as nodePty from "@lydell/node-pty";
import { codeOf, EdgeError } from "../core/errors.js";

/** A serial line without hardware: `path` is what a program opens; we are the device at its far end. */
export interface Pty {
  readonly path: string;
  /** Bytes that `write` took and nobody at the other end has made room for. */
  readonly unsentBytes: number;
  onData(take: (chunk: Buffer) => void): void;
  write(bytes: Uint8Array): void;
  /** Pulls the cable. */
  unplug(): void;
}

export class NoPty extends EdgeError {
  override readonly code: string = "NO_PTY";
}

interface RawPty {
  readonly master: Readable;
  readonly slave: Readable & { setRawMode(raw: boolean): void };
  readonly ptsName: string;
  readonly fd: number;
}

const RETRY_MS = 2;

/**
 * Opens a raw pty. We keep a descriptor of the near end ourselves: the line would hang up for good with the last
 * program that closes it, and forget that it is raw.
 *
 * @throws {NoPty} where there are none, as without /dev/pts.
 */
export function openPty(): Pty {
  const { master, slave, ptsName, fd } = openRaw();
  slave.setRawMode(true);
  const own = openSync(ptsName, constants.O_RDWR | constants.O_NOCTTY);
  slave.destroy(); // Else it takes the bytes before any other reader.
  closeCopies(ptsName, own);
  master.on("error", () => undefined);

  let plugged = true;
  let unsent = Buffer.alloc(0);
  let retry: NodeJS.Timeout | undefined;
  // Not through the stream: libuv writes to a pty in blocking mode, and a line that nobody reads would stop everything.
  const flush = (): void => {
    retry = undefined;
    while (plugged && unsent.length > 0) {
      try {
        unsent = unsent.subarray(writeSync(fd, unsent));
      } catch (error) {
        if (codeOf(error) !== "EAGAIN") throw error;
        retry = setTimeout(flush, RETRY_MS);
        return;
      }
    }
  };
  return {
    path: ptsName,
    get unsentBytes() {
      return unsent.length;
    },
    onData: (take) => void master.on("data", take),
    write(bytes) {
      unsent = Buffer.concat([unsent, bytes]);
      if (!retry) flush();
    },
    unplug() {
      if (!plugged) return;
      plugged = false;
      clearTimeout(retry);
      closeSync(own);
      master.destroy();
    },
  };
}

function openRaw(): RawPty {
  // `open` is there but not declared.
  const { open } = nodePty as unknown as { open: (options: { encoding: null }) => RawPty };
  try {
    return open({ encoding: null });
  } catch (cause) {
    throw new NoPty("no pty can be opened here: is /dev/pts mounted, and are some left?", { cause });
  }
}

/** libuv opens a tty anew and node-pty never closes the descriptor that it began with. */
function closeCopies(path: string, except: number): void {
  for (const name of readdirSync("/proc/self/fd")) {
    const fd = Number(name);
    try {
      if (fd !== except && fd > 2 && readlinkSync(`/proc/self/fd/${name}`) === path) closeSync(fd);
    } catch {
      // The descriptor of the listing itself is gone by now.
    }
  }
}
