import { parseRecord, formatRecord, type AtRecord } from "../../protocol/record.js";
import { metadataJson } from "../../protocol/metadata.js";
import type { RecordPart } from "../../protocol/key-grammar.js";
import type { AtSign } from "../../protocol/at-sign.js";
import { lookup, type Lookup } from "../../protocol/verbs/lookup.js";
import { plookup } from "../../protocol/verbs/plookup.js";
import { mayUse, notAuthorised } from "../authorise.js";
import { LOOKUP_TIMEOUT_MS, type PeerChannel } from "../outbound/peers.js";
import { keyNotFound, Refusal } from "../refusal.js";
import { data, json, type Reply } from "../reply.js";
import type { Services } from "../services.js";
import { peerOf, type Session } from "../session.js";
import { isActive, type KeyRecord } from "../store/key-store.js";
import { verb } from "../verb.js";
import { showRecord } from "./llookup.js";

/** `lookup` reads what the owner shares with the one who asks: the owner, a peer's atServer, or anybody. */
export const lookupVerb = verb(lookup, false, async (command, { session }, services) => {
  if (!session.authentication) return lookupForOthers(command, session, services);
  const { self, clock, enrollments, keys } = services;
  const { entity, owner, part, bypassCache } = command;
  const name = `${self}:${entity}${owner}`;
  if (!mayUse(session, name, "read", { enrollments, nowMs: clock.now() }))
    throw notAuthorised(session, `lookup key: ${name}`);
  if (owner !== self) {
    return await remote(
      { cachedAs: `cached:${name}`, shownAs: name, entity, owner, channel: "pol", part, bypassCache },
      services,
    );
  }
  const record = keys.get(name);
  if (!record) throw keyNotFound(name);
  return show(record, `${self}:`, part, services);
});

/** `plookup` reads public data of any atSign, by way of this server's cache. */
export const plookupVerb = verb(plookup, true, async ({ entity, owner, part, bypassCache }, _, services) => {
  const name = `public:${entity}${owner}`;
  if (owner !== services.self) {
    return await remote(
      { cachedAs: `cached:${name}`, shownAs: name, entity, owner, channel: "plain", part, bypassCache },
      services,
    );
  }
  const record = services.keys.get(name);
  if (!record) throw keyNotFound(name);
  return isActive(record, services.clock.now()) ? show(record, "public:", part, services) : data(null);
});

function lookupForOthers({ entity, owner, part }: Lookup, session: Session, services: Services): Reply {
  const { cookies, keys, clock } = services;
  const peer = peerOf(session);
  const prefix = peer === undefined ? "public:" : `${peer}:`;
  const name = `${prefix}${entity}${owner}`;
  const cookie = cookies.get(`public:${entity}${owner}`);
  if (cookie !== undefined && part === "value") return data(cookie);
  const record = keys.get(name);
  if (!record) throw keyNotFound(name);
  return isActive(record, clock.now()) ? show(record, prefix, part, services) : data(null);
}

const REFERENCE = "atsign://";

/** Follows a value that refers to another record of this server, a few steps at most (spec 3.8). */
function show(record: KeyRecord, prefix: string, part: RecordPart, services: Services): Reply {
  const { keys, settings, clock, visits } = services;
  let value = record.value;
  for (let depth = 0; value?.includes(REFERENCE); depth += 1) {
    if (depth >= settings.lookupDepth) return data(null);
    const target = value
      .slice(value.indexOf("//") + 2)
      .trim()
      .toLowerCase();
    const next = keys.get(`${prefix}${target}`) ?? keys.get(`public:${target}`);
    if (!next) throw keyNotFound(`public:${target}`);
    if (!isActive(next, clock.now())) return data(null);
    value = next.value;
  }
  visits.count("key", record.name);
  return showRecord({ ...record, value }, part);
}

interface Remote {
  readonly cachedAs: string;
  readonly shownAs: string;
  readonly entity: string;
  readonly owner: AtSign;
  readonly channel: PeerChannel;
  readonly part: RecordPart;
  readonly bypassCache: boolean;
}

async function remote(
  { cachedAs, shownAs, entity, owner, channel, part, bypassCache }: Remote,
  services: Services,
): Promise<Reply> {
  const { cache } = services;
  const copy = bypassCache ? undefined : cache.fresh(cachedAs);
  if (copy) return showRecord(copy, part);
  const record = await fetchRecord({ cachedAs, entity, owner, channel }, services);
  await cache.keep(cachedAs, record, owner);
  return showRemote({ ...record, key: shownAs }, part);
}

/** Asks the owner's atServer; a copy of what is no longer there goes. */
export async function fetchRecord(
  { cachedAs, entity, owner, channel }: Pick<Remote, "cachedAs" | "entity" | "owner" | "channel">,
  { peers, cache }: Pick<Services, "peers" | "cache">,
): Promise<AtRecord> {
  const isPublicKey = cachedAs.startsWith("cached:public:publickey@");
  try {
    const reply = await peers.request(owner, channel, `lookup:all:${entity}${owner}`, LOOKUP_TIMEOUT_MS);
    if (reply !== "null") return parseRecord(reply);
    const message = `remoteLookUp: remote atServer returned String value 'null' for ${entity}${owner}`;
    throw new Refusal("AT0015", message);
  } catch (error) {
    if (error instanceof Refusal && error.code === "AT0015" && !isPublicKey) await cache.remove(cachedAs);
    throw error;
  }
}

function showRemote(record: AtRecord, part: RecordPart): Reply {
  switch (part) {
    case "value":
      return data(record.value);
    case "meta":
      return json(metadataJson(record.metadata));
    case "all":
      return data(formatRecord(record));
  }
}
