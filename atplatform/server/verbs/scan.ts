import { scan } from "../../protocol/verbs/scan.js";
import { enrollmentOf, showsInScan } from "../authorise.js";
import { compileClientRegex } from "../client-regex.js";
import { Refusal } from "../refusal.js";
import { data, json } from "../reply.js";
import type { Services } from "../services.js";
import { peerOf, type Session } from "../session.js";
import { verb } from "../verb.js";

/** `scan` lists the names of records: the owner's, those for a peer, or public ones. */
export const scanVerb = verb(scan, false, async ({ showHidden, atSign, regex }, { session }, services) => {
  const { self, keys, clock, peers } = services;
  if (atSign !== undefined && atSign !== self) {
    if (!session.authentication) throw new Refusal("AT0401", "Scan to another atSign cannot be performed without auth");
    return data(await peers.request(atSign, "pol", regex === undefined ? "scan" : `scan ${regex}`));
  }
  const pattern = regex === undefined ? undefined : compileClientRegex(regex);
  const names = keys.activeNames(clock.now()).filter((name) => pattern?.test(name) ?? true);
  return json([...visibleNames(names, session, showHidden, services)].sort());
});

function visibleNames(
  names: readonly string[],
  session: Session,
  showHidden: boolean,
  services: Services,
): readonly string[] {
  const peer = peerOf(session);
  if (peer !== undefined) {
    const prefix = `${peer}:`;
    return names.filter((name) => name.startsWith(prefix)).map((name) => name.replaceAll(prefix, ""));
  }
  if (!session.authentication) return publicNames(names);
  return ownNames(names, session, showHidden, services);
}

/** The names of enrolled apps and devices are in `__public_keys`: nobody's business (spec 3.28.5). */
function publicNames(names: readonly string[]): readonly string[] {
  const prefix = "public:";
  return names
    .filter((name) => name.startsWith(prefix) && !name.startsWith("public:_") && !name.includes(".__public_keys"))
    .map((name) => name.slice(prefix.length));
}

function ownNames(
  names: readonly string[],
  session: Session,
  showHidden: boolean,
  services: Services,
): readonly string[] {
  const { enrollments, clock } = services;
  const enrollment = enrollmentOf(session, enrollments, clock.now());
  if (enrollment === undefined) return [];
  const shown = names.filter((name) => {
    if (name.startsWith("private:") || name.startsWith("privatekey:")) return false;
    if (name.startsWith("public:__") || name.startsWith("_")) return showHidden;
    return !name.startsWith("public:_");
  });
  return enrollment === "none" ? shown : shown.filter((name) => showsInScan(enrollment, name));
}
