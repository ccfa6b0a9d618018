import { closeSync, constants, openSync, readdirSync, readlinkSync } from "node:fs";
import type { Duplex } from "node:stream";
import * as nodePty from "@lydell/node-pty";

/** A serial line without hardware: `path` is what a program opens, `far` the end of the device. */
export interface Pty {
  readonly path: string;
  readonly far: Duplex;
  /** Pulls the cable. */
  unplug(): void;
}

interface RawPty {
  readonly master: Duplex;
  readonly slave: Duplex & { setRawMode(raw: boolean): void };
  readonly ptsName: string;
}

/**
 * Opens a raw pty. We keep a descriptor of the near end ourselves: the line would hang up for good with the last
 * program that closes it, and forget that it is raw.
 *
 * @throws {Error} where there are no ptys, as without /dev/pts.
 */
export function openPty(): Pty {
  // `open` is there but not declared.
  const open = (nodePty as unknown as { open: (options: { encoding: null }) => RawPty }).open;
  const { master, slave, ptsName } = open({ encoding: null });
  slave.setRawMode(true);
  const own = openSync(ptsName, constants.O_RDWR | constants.O_NOCTTY);
  slave.destroy(); // Else it takes the bytes before any other reader.
  closeCopies(ptsName, own);
  master.on("error", () => undefined);
  let plugged = true;
  return {
    path: ptsName,
    far: master,
    unplug() {
      if (!plugged) return;
      plugged = false;
      closeSync(own);
      master.destroy();
    },
  };
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
