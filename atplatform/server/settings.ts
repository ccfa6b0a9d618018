/** What can be set for the atServers of a platform (spec 10.4, in our units). */
export interface AtServerSettings {
  readonly inboundMax: number;
  readonly outboundMax: number;
  readonly unauthenticatedIdleMs: number;
  readonly authenticatedIdleMs: number;
  readonly outboundIdleMs: number;
  /** Of a notification whose sender did not say (spec: 15 minutes shipped, 24 hours in code). */
  readonly notificationExpiryMs: number;
  readonly autoNotify: boolean;
  readonly clientCertificateRequired: boolean;
  readonly statsNotificationMs: number;
  readonly expiryJobMs: number;
  readonly notificationJobMs: number;
  readonly refreshJobMs: number;
  readonly lookupDepth: number;
  readonly syncPageEntries: number;
  readonly syncPageBytes: number;
  readonly enrollRequestsMax: number;
  /** Of all connections from one address: generous, a fleet may sit behind it. */
  readonly enrollRequestsPerAddressMax: number;
  readonly enrollTimeFrameMs: number;
  readonly enrollExpiryMs: number;
  readonly invalidOtpDelayMaxMs: number;
  readonly deliveryAttemptsMax: number;
  readonly deliveryBackoffFirstMs: number;
  readonly deliveryBackoffMaxMs: number;
  /** `config:set` works; for tests only. */
  readonly testingMode: boolean;
}

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

export const defaultSettings: AtServerSettings = {
  inboundMax: 200,
  outboundMax: 200,
  unauthenticatedIdleMs: 10 * MINUTE_MS,
  authenticatedIdleMs: 30 * DAY_MS,
  outboundIdleMs: 10 * MINUTE_MS,
  notificationExpiryMs: DAY_MS,
  autoNotify: true,
  clientCertificateRequired: true,
  statsNotificationMs: 15_000,
  expiryJobMs: 3 * MINUTE_MS,
  notificationJobMs: 5 * MINUTE_MS,
  refreshJobMs: DAY_MS,
  lookupDepth: 3,
  syncPageEntries: 25,
  syncPageBytes: 5_242_880,
  enrollRequestsMax: 5,
  enrollRequestsPerAddressMax: 200,
  enrollTimeFrameMs: HOUR_MS,
  enrollExpiryMs: 48 * HOUR_MS,
  invalidOtpDelayMaxMs: 55_000,
  deliveryAttemptsMax: 30,
  deliveryBackoffFirstMs: 250,
  deliveryBackoffMaxMs: 15_000,
  testingMode: false,
};

/** Of notifications that `delete` and `notify:all` make (spec 3.11, 3.19). */
export const SHORT_NOTIFICATION_MS = 15 * MINUTE_MS;
/** How long a peer may read the proof that we stored for it (spec 5.2). */
export const COOKIE_LIFE_MS = MINUTE_MS;

export const VERSION = "3.0.52";
