import { lookup } from "node:dns";
import type { LookupFunction } from "node:net";

/**
 * Resolves host names as the system does, but names under `localhost` are this machine also where its resolver does not
 * know that (RFC 6761, 6.3): a platform that tells its atSigns apart by name needs no DNS to be tried.
 */
export const lookupHost: LookupFunction = (host, options, done) =>
  lookup(/\.localhost\.?$/iu.test(host) ? "localhost" : host, options, done);
