import { info } from "../../protocol/verbs/info.js";
import { enrollmentRecord } from "../enrollment-record.js";
import { enrollmentOf } from "../authorise.js";
import { json } from "../reply.js";
import { VERSION } from "../settings.js";
import { verb } from "../verb.js";

/** `info`: version and uptime. Clients show the version and compare it, so it is that of the reference we follow. */
export const infoVerb = verb(info, false, ({ brief }, { session }, { clock, startedMs, enrollments }) => {
  const uptimeMs = Math.round(clock.monotonicMs() - startedMs);
  if (brief) return json({ version: VERSION, uptimeAsMillis: uptimeMs });
  const enrollment = enrollmentOf(session, enrollments, clock.now());
  const isEnrolled = enrollment !== undefined && enrollment !== "none";
  return json({
    version: VERSION,
    uptimeAsWords: inWords(uptimeMs),
    ...(isEnrolled && { apkam_metadata: enrollmentRecord(enrollment) }),
  });
});

/** `1 hours 2 minutes 3 seconds`; what is zero is left out from the left. */
export function inWords(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  const parts: readonly (readonly [number, string])[] = [
    [Math.floor(seconds / 86_400), "days"],
    [Math.floor(seconds / 3600) % 24, "hours"],
    [Math.floor(seconds / 60) % 60, "minutes"],
    [seconds % 60, "seconds"],
  ];
  const first = parts.findIndex(([count], index) => count > 0 || index === parts.length - 1);
  return parts
    .slice(first)
    .map(([count, unit]) => `${count} ${unit}`)
    .join(" ");
}
