import { lookup } from "node:dns";
import type { LookupFunction } from "node:net";

/**
 * The name to ask the system for: names under `localhost` are this machine also where its resolver does not know that
 * (RFC 6761, 6.3), so that a platform that tells its atSigns apart by name needs no DNS to be tried.
 */
export const nameToResolve = (host: string): string => (/\.localhost\.?$/iu.test(host) ? "localhost" : host);

/** Resolves host names as the system does, {@link nameToResolve} apart. */
export const lookupHost: LookupFunction = (host, options, done) => lookup(nameToResolve(host), options, done);
