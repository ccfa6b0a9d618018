import type { Clock } from "../../core/clock.js";
import { publicKeyChecksum } from "../crypto/digests.js";
import { parsePublicKey } from "../crypto/rsa.js";
import { AtServerError } from "../protocol/at-error.js";
import type { AtSign } from "../protocol/at-sign.js";
import { llookup } from "../protocol/verbs/llookup.js";
import { plookup } from "../protocol/verbs/plookup.js";
import { BoundedMap } from "./bounded-map.js";
import type { CommandLink } from "./command-link.js";
import { NotActivated } from "./errors.js";

export interface PublicKey {
  /** Base64 SPKI, one line. */
  readonly text: string;
  /** `pubKeyCS`. */
  readonly checksum: string;
}

export interface PublicKeysOptions {
  readonly atSign: AtSign;
  readonly link: CommandLink;
  readonly clock: Clock;
}

const MAX_KEPT = 1000;
const KEPT_MS = 24 * 3_600_000;

/** Encryption public keys of atSigns, each asked for anew once a day. Whether one may be trusted, pins decide. */
export class PublicKeys {
  readonly #options: PublicKeysOptions;
  readonly #kept = new BoundedMap<AtSign, { readonly key: PublicKey; readonly atMs: number }>(MAX_KEPT);

  constructor(options: PublicKeysOptions) {
    this.#options = options;
  }

  /** @throws {NotActivated} when there is none; {@link KeyInvalid} when it is no RSA-2048 key. */
  async get(atSign: AtSign, { fresh = false }: { readonly fresh?: boolean }, signal: AbortSignal): Promise<PublicKey> {
    const { clock } = this.#options;
    const kept = this.#kept.get(atSign);
    const old = kept === undefined || clock.monotonicMs() - kept.atMs >= KEPT_MS;
    if (!old && !fresh) return kept.key;
    // A copy of ours that has got old is no reason to take the server's old copy.
    const text = await this.#ask(atSign, fresh || kept !== undefined, signal);
    parsePublicKey(text);
    const key = { text, checksum: publicKeyChecksum(text) };
    this.#kept.set(atSign, { key, atMs: clock.monotonicMs() });
    return key;
  }

  async #ask(owner: AtSign, bypassCache: boolean, signal: AbortSignal): Promise<string> {
    const { link, atSign } = this.#options;
    const line =
      owner === atSign
        ? llookup.format({ part: "value", key: `public:publickey${owner}` })
        : plookup.format({ part: "value", bypassCache, entity: "publickey", owner });
    try {
      const answer = await link.send(line, { repeatable: true }, signal);
      if (answer !== "null") return answer.trim();
    } catch (error) {
      if (!(error instanceof AtServerError) || error.code !== "AT0015") throw error;
    }
    throw new NotActivated(`${owner} has published no encryption key`);
  }
}
