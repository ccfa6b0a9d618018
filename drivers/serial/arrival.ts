import { watch } from "node:fs";
import { access } from "node:fs/promises";
import { dirname } from "node:path";
import { untilAborted } from "../../core/scope.js";
import { findUsbPorts, SYSTEM_ROOTS, type SerialRoots, type UsbMatch } from "./usb-ports.js";

/**
 * Resolves when a path appears that is not there now, told by the kernel (inotify) and not by looking again and again.
 * Never resolves for a path that is there already. udev makes and removes whole folders (`/dev/serial/by-id`), so the
 * nearest folder that exists is watched.
 */
export async function untilPathAppears(path: string, signal: AbortSignal): Promise<void> {
  await untilTrue(
    () => exists(path),
    () => nearestFolder(dirname(path)),
    signal,
  );
}

/** The same for a USB adapter by its identifiers: looks when something changes among the device files. */
export async function untilUsbAppears(
  match: UsbMatch,
  signal: AbortSignal,
  roots: SerialRoots = SYSTEM_ROOTS,
): Promise<void> {
  const there = async (): Promise<boolean> => (await findUsbPorts(match, roots)).length > 0;
  await untilTrue(there, async () => roots.dev, signal);
}

async function untilTrue(
  condition: () => Promise<boolean>,
  folder: () => Promise<string>,
  signal: AbortSignal,
): Promise<void> {
  if (await condition()) return untilAborted(new Promise<never>(() => undefined), signal);
  while (!signal.aborted) {
    // Looked at again after the watch has begun: what appears in between is not missed.
    const watched = await folder();
    const change = await nextChange(watched, signal);
    try {
      if (await condition()) return;
      // A deeper folder that came before the watch began would tell what this one does not.
      if ((await folder()) === watched) await change.happened;
      if (await condition()) return;
    } finally {
      change.stop();
    }
  }
  signal.throwIfAborted();
}

async function nextChange(
  folder: string,
  signal: AbortSignal,
): Promise<{ readonly happened: Promise<void>; stop(): void }> {
  const watcher = watch(folder, { persistent: false });
  const happened = untilAborted(
    new Promise<void>((resolve, reject) => {
      watcher.once("change", () => resolve());
      watcher.once("error", reject);
    }),
    signal,
  );
  happened.catch(() => undefined);
  return { happened, stop: () => watcher.close() };
}

async function nearestFolder(folder: string): Promise<string> {
  return (await exists(folder)) || folder === dirname(folder) ? folder : nearestFolder(dirname(folder));
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
