import { generateKeyPair, type KeyObject, createPrivateKey } from "node:crypto";
import { promisify } from "node:util";
import type { Clock } from "../../core/clock.js";
import type { GroupCommit } from "../../core/group-commit.js";
import type { AtSign } from "../protocol/at-sign.js";
import type { KeyStore } from "./store/key-store.js";
import { mergeMetadata, omit } from "./store/metadata.js";
import type { SettingStore } from "./store/setting-store.js";

/**
 * The RSA key with which this atServer proves to others whose it is; made at the first start. Its public half is the
 * record `public:signing_publickey@alice`; the private half stays out of the records, as no client reads it (spec 4.9).
 */
export async function signingKey(
  self: AtSign,
  {
    settings,
    keys,
    commits,
    clock,
  }: {
    readonly settings: SettingStore;
    readonly keys: KeyStore;
    readonly commits: GroupCommit;
    readonly clock: Clock;
  },
): Promise<KeyObject> {
  const kept = settings.get("signing_private_key");
  if (kept !== undefined) return createPrivateKey(kept);
  const { privateKey, publicKey } = await promisify(generateKeyPair)("rsa", { modulusLength: 2048 });
  await commits.write(() => {
    settings.set("signing_private_key", privateKey.export({ type: "pkcs8", format: "pem" }).toString());
    const value = publicKey.export({ type: "spki", format: "der" }).toString("base64");
    const metadata = omit(mergeMetadata(undefined, {}, self, clock.now()), "isBinary", "isEncrypted");
    keys.put({ name: `public:signing_publickey${self}`, value, metadata }, "+", clock.now());
  });
  return privateKey;
}
