import { fetchRecord } from "./verbs/lookup.js";
import { partsOf } from "../protocol/at-key.js";
import { defaultKeyNames, pkamPublicKeyName } from "./enrollment-record.js";
import type { Services } from "./services.js";

/** So that the atServers of one machine do not all work in one second. */
const JITTER_MS = 11_000;
const EXPIRE_AT_ONCE = 500;

/** What an atServer does by itself (spec 4.8), until aborted. */
export async function runJobs(services: Services, signal: AbortSignal): Promise<void> {
  const { settings } = services;
  await Promise.all([
    every(settings.expiryJobMs, () => expireKeys(services), services, signal),
    every(settings.notificationJobMs, () => compactLogs(services), services, signal),
    every(settings.refreshJobMs, () => refreshCopies(services), services, signal),
  ]);
}

/** A job that fails is logged and tried again next time. */
async function every(ms: number, job: () => Promise<void>, services: Services, signal: AbortSignal): Promise<void> {
  const { clock, log } = services;
  for (;;) {
    try {
      await clock.sleep(ms + Math.random() * Math.min(JITTER_MS, ms / 10), signal);
    } catch (error) {
      if (signal.aborted) return;
      throw error;
    }
    try {
      await job();
    } catch (error) {
      if (!signal.aborted) log.warn({ err: error }, "a job failed");
    }
  }
}

/** Removes expired records; each leaves a deletion in the log, so that clients learn of it. */
export async function expireKeys(services: Services): Promise<void> {
  const { clock, commits, keys, monitors } = services;
  await commits.write(() => expireEnrollments(services), "crash");
  for (;;) {
    const expired = await commits.write(() => {
      const now = clock.now();
      const names = keys.expiredNames(now, EXPIRE_AT_ONCE);
      for (const name of names) keys.delete(name, now);
      return names.length;
    }, "crash");
    if (expired > 0) monitors.changed("delete");
    if (expired < EXPIRE_AT_ONCE) return;
  }
}

/** With what their approval left for them. */
function expireEnrollments({ self, clock, enrollments, passcodes, keys }: Services): void {
  passcodes.expire(clock.now());
  for (const enrollment of enrollments.expired(clock.now())) {
    enrollments.remove(enrollment.id);
    const names = [...defaultKeyNames(enrollment.id, self), pkamPublicKeyName(enrollment, self)];
    for (const name of names) keys.deleteUnlogged(name);
  }
}

/** Keeps the logs short. That of changes is so already: a change takes the place of the one before of its key. */
export async function compactLogs({
  clock,
  commits,
  compactions,
  keys,
  notifications,
  visits,
}: Services): Promise<void> {
  await compactions.run(
    "AtCommitLog",
    () => keys.takeSuperseded(),
    () => keys.logSize,
  );
  await compactions.run(
    "AtAccessLog",
    () => visits.save(commits),
    () => visits.size,
  );
  const expire = async (): Promise<number> => {
    let all = 0;
    for (;;) {
      const expired = await commits.write(() => notifications.expire(clock.now()), "crash");
      if (expired === 0) return all;
      all += expired;
    }
  };
  await compactions.run("AtNotificationKeystore", expire, () => notifications.size);
}

/** Fetches the copies whose time has come; those that are gone go, others that cannot be read stay (spec 5.6). */
export async function refreshCopies(services: Services): Promise<void> {
  const { clock, keys, cache, log } = services;
  for (const name of keys.dueForRefresh(clock.now())) {
    const { entity, owner, visibility } = partsOf(name);
    if (owner === undefined) continue;
    const channel = visibility === "public" ? "plain" : "pol";
    try {
      const record = await fetchRecord({ cachedAs: name, entity, owner, channel }, services);
      await cache.keep(name, record, owner);
    } catch (error) {
      log.debug({ key: name, err: error }, "a copy could not be refreshed");
    }
  }
}
