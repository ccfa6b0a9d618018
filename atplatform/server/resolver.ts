import type { Clock } from "../../core/clock.js";
import type { DirectoryStore } from "../directory/directory-store.js";
import { bareAtSign, type AtSign } from "../protocol/at-sign.js";
import { connectTls } from "../transport/connect.js";
import { Directory, type DirectoryAddress } from "../transport/directory.js";
import { AtSignUnknown } from "../transport/errors.js";
import type { HostPort } from "../transport/host-port.js";

/** Says where the atServers of others are. */
export interface Resolver {
  /** `undefined`: there is no such atSign. @throws what a connection to the directory throws. */
  find(atSign: AtSign): Promise<HostPort | undefined>;
  /** A connection to the address failed: the atServer may have moved. */
  forget(atSign: AtSign): void;
}

/** Our own directory is asked directly: it is in this process. */
export const localResolver = (store: DirectoryStore): Resolver => ({
  find: (atSign) => Promise.resolve(store.find(bareAtSign(atSign))),
  forget: () => undefined,
});

/** A directory elsewhere; answers are kept for an hour. */
export function remoteResolver(
  address: DirectoryAddress,
  { ca, clock }: { readonly ca: string | undefined; readonly clock: Clock },
  signal: AbortSignal,
): Resolver {
  const directory = new Directory({
    address,
    connect: (to, stop) => connectTls({ ...to, ca, clock }, stop),
    clock,
    answerTimeoutMs: 3_000,
  });
  return {
    async find(atSign) {
      try {
        return await directory.find(atSign, signal);
      } catch (error) {
        if (error instanceof AtSignUnknown) return undefined;
        throw error;
      }
    },
    forget: (atSign) => directory.forget(atSign),
  };
}
