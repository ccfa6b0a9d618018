import type { Clock } from "../../core/clock.js";
import type { GroupCommit } from "../../core/group-commit.js";
import type { Log } from "../../core/log.js";
import type { AtSign } from "../protocol/at-sign.js";
import type { Compactions } from "./compactions.js";
import type { ConnectionSet } from "./connection-set.js";
import type { Cookies } from "./cookies.js";
import type { Delivery } from "./delivery.js";
import type { FailureThrottle } from "./failure-throttle.js";
import type { MonitorHub } from "./monitors.js";
import type { Cache } from "./outbound/cache.js";
import type { Peers } from "./outbound/peers.js";
import type { PasscodeGuard } from "./passcode-guard.js";
import type { RateLimit } from "./rate-limit.js";
import type { AtServerSettings } from "./settings.js";
import type { EnrollmentStore } from "./store/enrollment-store.js";
import type { KeyStore } from "./store/key-store.js";
import type { NotificationStore } from "./store/notification-store.js";
import type { PasscodeStore } from "./store/passcode-store.js";
import type { SettingStore } from "./store/setting-store.js";
import type { Visits } from "./visits.js";

/** The abilities of one atServer; a verb takes the few it uses. */
export interface Services {
  /** The atSign that this server hosts. */
  readonly self: AtSign;
  /** By the monotonic clock. */
  readonly startedMs: number;
  readonly clock: Clock;
  readonly log: Log;
  readonly settings: AtServerSettings;
  /** For tests (`config:set`): from now on these count. */
  readonly changeSettings: (changes: Partial<AtServerSettings>) => void;
  /** Size of the atSign's file. */
  readonly storageBytes: () => number;
  readonly commits: GroupCommit;
  readonly keys: KeyStore;
  readonly notifications: NotificationStore;
  readonly enrollments: EnrollmentStore;
  readonly settingStore: SettingStore;
  readonly monitors: MonitorHub;
  readonly cookies: Cookies;
  readonly peers: Peers;
  readonly cache: Cache;
  readonly delivery: Delivery;
  readonly visits: Visits;
  readonly compactions: Compactions;
  readonly throttle: FailureThrottle;
  readonly passcodes: PasscodeStore;
  readonly passcodeGuard: PasscodeGuard;
  /** Enrolment requests by address: a new connection does not begin anew. */
  readonly enrollLimit: RateLimit;
  readonly connections: Pick<ConnectionSet, "dropEnrollment" | "size">;
}
