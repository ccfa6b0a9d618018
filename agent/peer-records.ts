import type { AtClient } from "../atplatform/client/at-client.js";
import { NoSharedKey } from "../atplatform/client/errors.js";
import { parseAtSign } from "../atplatform/protocol/at-sign.js";
import type { Clock } from "../core/clock.js";
import type { PeerRecords } from "../messages/peer-trust.js";
import { patiently } from "./patience.js";

/** Public keys and proofs of peers, asked of the atPlatform. */
export function peerRecords(client: Pick<AtClient, "publicKeyOf" | "get">, clock: Clock): PeerRecords {
  return {
    publicKeyOf: (peer, options, signal) =>
      patiently(() => client.publicKeyOf(parseAtSign(peer), options, signal), clock, signal),

    async sharedRecord(peer, name, options, signal) {
      const ask = () => client.get({ key: name, by: parseAtSign(peer) }, options, signal);
      try {
        const record = await patiently(ask, clock, signal);
        // Not encrypted, it cannot be sealed with the key that encrypted it.
        if (!record?.aesKey || record.value === null) return undefined;
        return { text: record.value, aesKey: record.aesKey };
      } catch (error) {
        if (error instanceof NoSharedKey) return undefined;
        throw error;
      }
    },
  };
}
