import type { AtClient, ReceivedNotification } from "../atplatform/client/at-client.js";
import type { ResumeStore } from "../atplatform/client/subscription.js";
import type { Clock } from "../core/clock.js";
import { agentRegex, type DeviceAddress } from "../messages/names.js";
import { patiently } from "./patience.js";

export interface MonitorOptions {
  readonly client: Pick<AtClient, "subscribe">;
  readonly address: DeviceAddress;
  readonly resume: ResumeStore;
  readonly clock: Clock;
  /** Each takes what is for it and ignores the rest. */
  readonly receivers: readonly ((notification: ReceivedNotification) => void | Promise<void>)[];
}

/** Hands receipts and requests to whom they are for, until `signal` aborts; goes on where the last run ended. */
export async function monitor(
  { client, address, resume, clock, receivers }: MonitorOptions,
  signal: AbortSignal,
): Promise<void> {
  const options = { regex: agentRegex(address), resume };
  for await (const notification of client.subscribe(options, signal)) {
    const decrypt: ReceivedNotification["decrypt"] = (inner) =>
      patiently(() => notification.decrypt(inner), clock, inner);
    for (const receive of receivers) await receive({ ...notification, decrypt });
  }
}
