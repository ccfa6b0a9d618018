/**
 * The atSDK: what a program needs to be one atSign on the atPlatform. Nothing here needs a package.
 *
 * @module
 */
export {
  type AtClient,
  type AtClientHealth,
  type AtClientOptions,
  type NotificationStatus,
  openAtClient,
  type OutgoingNotification,
  type ReceivedNotification,
} from "./client/at-client.js";
export {
  AlreadyActivated,
  AnswerInvalid,
  AnswerLost,
  EnrollmentMismatch,
  EnrollmentRefused,
  InboundSilent,
  IvsDropped,
  NoSharedKey,
  NotActivated,
  NotSent,
  PublicKeyChanged,
} from "./client/errors.js";
export { enroll, type EnrollOptions, type PendingEnrollment } from "./client/enroll.js";
export type { ApproveOptions, Enrollment, Enrollments } from "./client/enrollments.js";
export { onboard, type OnboardOptions, type OnboardStep } from "./client/onboard.js";
export type { InboundHealth } from "./client/inbound-proof.js";
export type { LinkHealth } from "./client/command-link.js";
export type { Reconnect } from "./client/pacer.js";
export type { ReachOptions } from "./client/reach.js";
export { type RecordName, recordNameOf } from "./client/record-name.js";
export type { AtRecord, PutOptions } from "./client/records.js";
export type { RecordJson, RecordMetadata } from "./client/record-json.js";
export type { ResumePoint } from "./client/seen-window.js";
export { openRpcClient, type RpcClient, type RpcClientOptions, RpcFailed } from "./client/rpc-client.js";
export type { JsonObject, RpcAddress } from "./client/rpc-messages.js";
export { type RpcCall, type RpcResult, type RpcServerOptions, serveRpc } from "./client/rpc-server.js";
export type { SharedKey } from "./client/shared-keys.js";
export type { ResumeStore, SubscribeOptions, SubscriptionHealth } from "./client/subscription.js";
export type { OutgoingText } from "./client/text-message.js";
export { MemorySyncStore } from "./client/sync-memory-store.js";
export type { LocalChange, PushResult, ServerEntry, SyncedRecord, SyncStore } from "./client/sync-store.js";
export { type OwnName, Sync, type SyncHealth, type SyncOptions, type SyncReport } from "./client/sync.js";
export { type AtKeys, formatAtKeys, parseAtKeys } from "./crypto/at-keys.js";
export {
  atKeysPath,
  type PassphraseSource,
  readAtKeysFile,
  type WriteOptions,
  writeAtKeysFile,
} from "./crypto/at-keys-file.js";
export { type Fingerprint, fingerprintOf, parseFingerprint } from "./crypto/digests.js";
export {
  DecryptionFailed,
  KeyFileExists,
  KeyFileInvalid,
  KeyInvalid,
  PassphraseNeeded,
  PassphraseWrong,
  UnknownAlgorithm,
} from "./crypto/errors.js";
export type { KeyPair } from "./crypto/rsa.js";
export { unwrapAtKeys, wrapAtKeys, type WrapForm } from "./crypto/passphrase.js";
export { AtServerError, type Remedy } from "./protocol/at-error.js";
export {
  type AtKey,
  type AtKeyParts,
  type AtKeyScope,
  type AtKeyType,
  makeAtKey,
  parseAtKey,
  partsOf,
} from "./protocol/at-key.js";
export { type AtSign, parseAtSign } from "./protocol/at-sign.js";
export type { Metadata } from "./protocol/metadata.js";
export type { MetadataOptions } from "./protocol/metadata-options.js";
export type { Namespaces } from "./protocol/verbs/enroll.js";
export type { Priority } from "./protocol/verbs/notify.js";
export type { Update } from "./protocol/verbs/update.js";
export { type DirectoryAddress, parseDirectoryAddress } from "./transport/directory.js";
export {
  AtSignUnknown,
  CertificateRefused,
  ClockFault,
  ConnectFailed,
  ConnectionLost,
  ProxyRefused,
} from "./transport/errors.js";
export { type HttpProxy, parseHttpProxy, type ProxyChoice } from "./transport/proxy.js";
export { type Clock, systemClock } from "../core/clock.js";
export { EdgeError, LimitExceeded, SyntaxInvalid, TimedOut } from "../core/errors.js";
export { type Log, type LogFields, silentLog } from "../core/log.js";
export type { Disposable } from "../core/scope.js";
export { Secret } from "../core/secret.js";
