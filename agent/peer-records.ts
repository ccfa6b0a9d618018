import type { AtClient } from "../atplatform/client/at-client.js";
import { NoSharedKey } from "../atplatform/client/errors.js";
import { parseAtSign } from "../atplatform/protocol/at-sign.js";
import type { PeerRecords } from "../messages/peer-trust.js";

/** Public keys and proofs of peers, asked of the atPlatform. */
export function peerRecords(client: Pick<AtClient, "publicKeyOf" | "get">): PeerRecords {
  return {
    publicKeyOf: (peer, options, signal) => client.publicKeyOf(parseAtSign(peer), options, signal),

    async sharedRecord(peer, name, options, signal) {
      try {
        const record = await client.get({ key: name, by: parseAtSign(peer) }, options, signal);
        if (!record?.aesKey || record.value === null) return undefined;
        return { text: record.value, aesKey: record.aesKey };
      } catch (error) {
        if (error instanceof NoSharedKey) return undefined;
        throw error;
      }
    },
  };
}
