import { randomUUID } from "node:crypto";
import type { AtSign } from "../protocol/at-sign.js";

/** A challenge is good for this long (spec 3.1, enforced). */
export const CHALLENGE_LIFE_MS = 60_000;

/** How the owner proved to be the owner. `apkam` is bound to an enrolment, and so is `cram` after `enroll:request`. */
export interface Authentication {
  readonly type: "cram" | "legacy" | "apkam";
  readonly enrollmentId: string | undefined;
}

/** What `from` handed out. */
export interface Challenge {
  readonly claimed: AtSign;
  readonly uuid: string;
  /** By the monotonic clock. */
  readonly atMs: number;
}

/** What an atServer knows of one connection (spec 6.4). */
export interface Session {
  /** `_` and a UUID. */
  readonly id: string;
  readonly remoteAddress: string;
  /** The host names on a client certificate that a trusted authority has signed; `undefined`: there is none. */
  readonly peerMatches: ((host: string) => boolean) | undefined;
  authentication: Authentication | undefined;
  /** The atSign whose atServer this is, after `pol`; authentication takes precedence. */
  peer: AtSign | undefined;
  challenge: Challenge | undefined;
  /** The client announced a version that understands JSON errors. */
  jsonErrors: boolean;
  /** Enrolment requests on this connection within the time frame, by the monotonic clock. */
  readonly enrollRequestsMs: number[];
  /** Prompts are left out once a connection is a plain monitor (spec 3.21.6). */
  omitPrompt: boolean;
}

export function newSession(remoteAddress: string, peerMatches: Session["peerMatches"]): Session {
  return {
    id: `_${randomUUID()}`,
    remoteAddress,
    peerMatches,
    authentication: undefined,
    peer: undefined,
    challenge: undefined,
    jsonErrors: false,
    enrollRequestsMs: [],
    omitPrompt: false,
  };
}

/** The text that a client signs: `_<uuid>@alice:<uuid>`. */
export const challengeText = (session: Session, challenge: Challenge): string =>
  `${session.id}${challenge.claimed}:${challenge.uuid}`;

/** `undefined` when the session is not another atServer's, or is the owner's as well. */
export const peerOf = (session: Session): AtSign | undefined => (session.authentication ? undefined : session.peer);
