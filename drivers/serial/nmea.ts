import type { Fields } from "./line-codec.js";

/** `P` is the talker of a manufacturer's own sentences, whose kind is longer. */
const SENTENCE =
  /^[$!](?<body>(?<talker>P|[A-Z]{2})(?<kind>[A-Z0-9]{3,12})(?:,(?<fields>[\x20-\x29\x2b-\x7d]*))?)(?:\*(?<sum>[0-9A-Fa-f]{2}))?$/u;

/**
 * An NMEA 0183 sentence: `talker`, `kind` and the fields as `f`, texts as they came. Of GGA and RMC also `lat` and
 * `lon` in degrees, north and east positive, and what else they have as numbers: `altitude` (m), `satellites`, `hdop`;
 * `speed` (m/s), `course` (degrees). `undefined` for what is none, has a false checksum, or none where it is required.
 */
export function parseNmea(line: string, requireChecksum = true): Fields | undefined {
  const { body = "", talker, kind = "", fields = "", sum } = SENTENCE.exec(line.trimEnd())?.groups ?? {};
  if (talker === undefined || (sum === undefined && requireChecksum)) return undefined;
  if (sum !== undefined && nmeaChecksum(body) !== sum.toUpperCase()) return undefined;
  const f = fields.split(",");
  return { talker, kind, f, ...(kind === "GGA" ? gga(f) : kind === "RMC" ? rmc(f) : {}) };
}

/** The sentence with `$` and its checksum, without a line end. */
export function formatNmea(body: string): string {
  return `$${body}*${nmeaChecksum(body)}`;
}

/** XOR of all characters between `$` and `*`, two hex digits. */
export function nmeaChecksum(body: string): string {
  let sum = 0;
  for (let at = 0; at < body.length; at += 1) sum ^= body.charCodeAt(at);
  return sum.toString(16).toUpperCase().padStart(2, "0");
}

const KNOT_METRES_PER_SECOND = 1852 / 3600;

function gga([, lat, ns, lon, ew, quality, satellites, hdop, altitude]: readonly string[]): Fields {
  if (quality === "0" || quality === "") return { fix: false };
  return numbers({
    fix: true,
    lat: degrees(lat, ns, "S"),
    lon: degrees(lon, ew, "W"),
    satellites: number(satellites),
    hdop: number(hdop),
    altitude: number(altitude),
  });
}

function rmc([, status, lat, ns, lon, ew, knots, course]: readonly string[]): Fields {
  if (status !== "A") return { fix: false };
  const speedKnots = number(knots);
  return numbers({
    fix: true,
    lat: degrees(lat, ns, "S"),
    lon: degrees(lon, ew, "W"),
    speed: speedKnots === undefined ? undefined : speedKnots * KNOT_METRES_PER_SECOND,
    course: number(course),
  });
}

/** `ddmm.mmmm` or `dddmm.mmmm`. */
function degrees(text: string | undefined, side: string | undefined, negative: string): number | undefined {
  const { whole, minutes } = /^(?<whole>\d{1,3})(?<minutes>\d{2}(?:\.\d+)?)$/u.exec(text ?? "")?.groups ?? {};
  if (whole === undefined || minutes === undefined) return undefined;
  const value = Number(whole) + Number(minutes) / 60;
  return side === negative ? -value : value;
}

function number(text: string | undefined): number | undefined {
  return text !== undefined && /^-?\d+(?:\.\d*)?$/u.test(text) ? Number(text) : undefined;
}

function numbers(fields: Record<string, unknown>): Fields {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}
