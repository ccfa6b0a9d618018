import type { AtKeys } from "../../atplatform/crypto/at-keys.js";
import type { AgentConfig } from "../config/parse.js";
import { loadKeys, passphraseOf } from "./load-keys.js";

/** The keys that the configuration names. @throws {KeysUnusable} {@link KeyFileInvalid} */
export async function loadAgentKeys({
  keys,
  keysPassphraseFile,
  atsign,
  device,
}: Pick<AgentConfig, "keys" | "keysPassphraseFile" | "atsign" | "device">): Promise<AtKeys> {
  return await loadKeys(keys, {
    whenAbsent: `make one with \`atedge enroll ${atsign} --device ${device} --keys ${keys} …\`, or name another with keys = "FILE" in the configuration`,
    whenSealed: 'name a file that holds it with keysPassphraseFile = "FILE" in the configuration',
    passphrase: keysPassphraseFile === undefined ? undefined : passphraseOf(keysPassphraseFile),
  });
}
