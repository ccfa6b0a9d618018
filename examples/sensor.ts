// A sensor: tells one atSign the load of this machine, and keeps the latest value in a record for who asks later.
// `AT_SIGN=@greenhouse READER=@grower EVERY_MS=10000`
import { loadavg } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { atKeysPath, openAtClient, parseAtSign, parseDirectoryAddress, readAtKeysFile } from "atedge/atplatform";
import { EdgeError } from "atedge/atplatform";

const atSign = parseAtSign(process.env["AT_SIGN"] ?? "");
const reader = parseAtSign(process.env["READER"] ?? "");
const everyMs = Number(process.env["EVERY_MS"] ?? 10_000);
const directory = parseDirectoryAddress(process.env["AT_DIRECTORY"] ?? "root.atsign.org:64");
const keys = await readAtKeysFile(atKeysPath(atSign));
const stop = new AbortController();
process.once("SIGTERM", () => stop.abort()).once("SIGINT", () => stop.abort());
const client = await openAtClient({ atSign, keys, directory }, stop.signal);

async function measure(): Promise<void> {
  const value = JSON.stringify({ at: new Date().toISOString(), load: loadavg()[0] });
  const key = "load.sensor";
  await client.put({ key, for: reader }, value, { ttlMs: 3_600_000 }, stop.signal);
  // Old values are of no use: of those that wait for a reader who is away, only the newest stays.
  const keepNewest = { strategy: "latest", latestN: 1, notifier: "sensor" } as const;
  await client.notify({ to: reader, key, value, ttlnMs: 60_000, ...keepNewest }, stop.signal);
}

while (!stop.signal.aborted) {
  await measure().catch((error: unknown) => {
    if (stop.signal.aborted) return;
    if (!(error instanceof EdgeError)) throw error;
    console.error(error.code, error.message); // the client waits between its attempts by itself
  });
  await sleep(everyMs, undefined, { signal: stop.signal }).catch(() => undefined);
}
await client[Symbol.asyncDispose]();
