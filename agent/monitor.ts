import type { AtClient, ReceivedNotification } from "../atplatform/client/at-client.js";
import type { ResumeStore } from "../atplatform/client/subscription.js";
import { agentRegex, type DeviceAddress } from "../messages/names.js";

export interface MonitorOptions {
  readonly client: Pick<AtClient, "subscribe">;
  readonly address: DeviceAddress;
  readonly resume: ResumeStore;
  /** Each takes what is for it and ignores the rest. */
  readonly receivers: readonly ((notification: ReceivedNotification) => void | Promise<void>)[];
}

/** Hands receipts and requests to whom they are for, until `signal` aborts; goes on where the last run ended. */
export async function monitor(
  { client, address, resume, receivers }: MonitorOptions,
  signal: AbortSignal,
): Promise<void> {
  const options = { regex: agentRegex(address), resume };
  for await (const notification of client.subscribe(options, signal)) {
    for (const receive of receivers) await receive(notification);
  }
}
