import { partsOf } from "../../protocol/at-key.js";
import { deleteVerb as codec } from "../../protocol/verbs/delete.js";
import { autoNotify } from "../auto-notify.js";
import { mayUse, notAuthorised } from "../authorise.js";
import { Refusal } from "../refusal.js";
import { data, type Reply } from "../reply.js";
import type { Services } from "../services.js";
import { mergeMetadata } from "../store/metadata.js";
import { verb } from "../verb.js";
import { CRAM_SECRET, CRAM_SECRET_DELETED } from "./login.js";

/** `delete` removes a record; of one that does not exist, too, because a client may know of one. */
export const deleteVerb = verb(codec, true, async ({ key, priority = "low" }, { session }, services) => {
  const { self, clock, commits, keys, enrollments, monitors, delivery } = services;
  checkProtected(key, self);
  if (!mayUse(session, key, "write", { enrollments, nowMs: clock.now() }))
    throw notAuthorised(session, `delete key: ${key}`);
  if (key === CRAM_SECRET) return await deleteSecret(services);
  const { commitId, queued } = await commits.write(() => ({
    commitId: keys.delete(key, clock.now()),
    queued: autoNotify(key, { operation: "delete", priority }, services),
  }));
  if (queued) delivery.wake(queued);
  if (commitId >= 0) monitors.changed("delete");
  return data(String(commitId));
});

/** What an atSign cannot do without, in whatever scope: `@bob:publickey@alice`, too (spec 3.11). */
function checkProtected(key: string, self: string): void {
  const { cached, entity, owner } = partsOf(key);
  if (cached) return;
  const name = `${entity}${owner ?? ""}`;
  const isProtected =
    ["publickey", "signing_publickey", "signing_privatekey"].some((known) => name === `${known}${self}`) ||
    entity === "at_pkam_publickey";
  if (isProtected) throw new Refusal("AT0009", `Cannot delete protected key: '${name}'`);
}

/** From now on nobody can log in with the secret, not even after a restart that is given it again. */
async function deleteSecret({ self, clock, commits, keys }: Services): Promise<Reply> {
  const commitId = await commits.write(() => {
    const metadata = mergeMetadata(undefined, {}, self, clock.now());
    keys.putUnlogged({ name: CRAM_SECRET_DELETED, value: "true", metadata });
    return keys.delete(CRAM_SECRET, clock.now());
  });
  return data(String(commitId));
}
