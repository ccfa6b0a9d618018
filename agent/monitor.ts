import type { AtClient, ReceivedNotification } from "../atplatform/client/at-client.js";
import type { ResumeStore } from "../atplatform/client/subscription.js";
import type { Clock } from "../core/clock.js";
import { TaskGroup } from "../core/scope.js";
import { agentRegex, type DeviceAddress, namespaceOf } from "../messages/names.js";
import { patiently } from "./patience.js";

export interface MonitorOptions {
  readonly client: Pick<AtClient, "subscribe">;
  readonly address: DeviceAddress;
  readonly resume: ResumeStore;
  readonly clock: Clock;
  /** By how much heartbeats are stretched, to save data. */
  readonly stretch?: () => number;
  /** Our atServer's clock, as it shows it every 15 s; milliseconds since 1970. */
  readonly onServerTime?: (shownMs: number) => void;
  /** Takes receipts and requests, and ignores what else the expression lets through. */
  readonly receive: (notification: ReceivedNotification, signal: AbortSignal) => Promise<void>;
}

/** Notifications in work at a time; then no more are asked for. A slow peer must not hold up the others. */
const MAX_UNDER_WAY = 32;

/** Hands receipts and requests to whom they are for, until `signal` aborts; goes on where the last run ended. */
export async function monitor(
  { client, address, resume, clock, stretch, onServerTime, receive }: MonitorOptions,
  signal: AbortSignal,
): Promise<void> {
  await using group = new TaskGroup(signal);
  const underWay = new Set<Promise<void>>();
  const onStats = (_: number, epochMillis: number): void => onServerTime?.(epochMillis);
  const probeNamespace = namespaceOf(address);
  const options = { regex: agentRegex(address), resume, probeNamespace, onStats, ...(stretch && { stretch }) };
  for await (const notification of client.subscribe(options, group.signal)) {
    if (underWay.size >= MAX_UNDER_WAY) await Promise.race(underWay);
    const decrypt: ReceivedNotification["decrypt"] = (inner) =>
      patiently(() => notification.decrypt(inner), clock, inner);
    const work = receive({ ...notification, decrypt }, group.signal).finally(() => underWay.delete(work));
    underWay.add(work);
    group.start(() => work);
  }
  await group.join();
}
