import type { AtClient } from "../../atplatform/client/at-client.js";
import type { AtSign } from "../../atplatform/protocol/at-sign.js";
import type { Clock } from "../../core/clock.js";
import type { Log } from "../../core/log.js";
import type { DeviceAddress } from "../../messages/names.js";
import type { OwnKeyGuard } from "../../messages/own-key.js";
import type { PeerTrust } from "../../messages/peer-trust.js";
import type { KeyObject } from "node:crypto";
import type { Store } from "../store/store.js";
import type { PeerKeys } from "./peer-keys.js";

/** What the uplink needs of the atPlatform. */
export type UplinkClient = Pick<AtClient, "notify" | "notificationStatus" | "put" | "metadataOf" | "sharedKeyFor">;

/** What the uplink is given. */
export interface UplinkDeps {
  readonly us: AtSign;
  readonly address: DeviceAddress;
  readonly client: UplinkClient;
  readonly store: Store;
  readonly trust: PeerTrust;
  readonly ownKeys: OwnKeyGuard;
  /** Of our encryption pair: signs for the AES keys that we use. */
  readonly privateKey: KeyObject;
  readonly clock: Clock;
  readonly log: Log;
}

/** What its parts share. */
export interface UplinkContext extends UplinkDeps {
  readonly keysOf: (peer: AtSign) => PeerKeys;
}

const BLAMED_CODES = ["AT0003", "AT0005", "AT0016", "AT0022", "LIMIT_EXCEEDED", "SEAL_INVALID", "KEY_INVALID"];

/** Whether an error blames the message itself, so that to send it for ever would be of no use. */
export const blamesMessage = (code: string | undefined): boolean => code !== undefined && BLAMED_CODES.includes(code);
