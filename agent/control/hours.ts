import { SyntaxInvalid } from "../../core/errors.js";

/** A stretch of each of some days of the week, in minutes since midnight; `to` below `from` is on the next day. */
interface Stretch {
  readonly days: readonly number[];
  readonly from: number;
  readonly to: number;
}

const DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const STRETCH = /^(?:(?<days>[a-z]{3}(?:[-,][a-z]{3})*) )?(?<h1>\d\d):(?<m1>\d\d)-(?<h2>\d\d):(?<m2>\d\d)$/u;
const DAY_MIN = 24 * 60;

/** `06:00-20:00`, `mon-fri 06:00-20:00`, `sat,sun 22:00-04:00` (which ends on the next day). @throws {SyntaxInvalid} */
export function parseHours(text: string): Stretch {
  const { days, h1, m1, h2, m2 } = STRETCH.exec(text)?.groups ?? {};
  const [from, to] = [minutes(h1, m1), minutes(h2, m2)];
  if (from === undefined || to === undefined || from === DAY_MIN || from === to) refuse();
  return { days: days === undefined ? DAYS.map((_, at) => at) : days.split(",").flatMap(daysOf), from, to };
}

/** @throws {SyntaxInvalid} when this machine does not know the time zone. `local` is the machine's own. */
export function parseTimeZone(name: string): string {
  weekClock(name);
  return name;
}

/**
 * Tells whether a moment, milliseconds since 1970, lies within one of the stretches by the clock of a time zone. `NaN`,
 * a time that is not known, lies within none.
 */
export function withinHours(texts: readonly string[], timeZone: string): (nowMs: number) => boolean {
  const stretches = texts.map(parseHours);
  const clock = weekClock(timeZone);
  return (nowMs) => {
    if (Number.isNaN(nowMs)) return false;
    const { day, minute } = clock(nowMs);
    const before = (day + 6) % 7;
    return stretches.some(({ days, from, to }) => {
      if (from < to) return days.includes(day) && minute >= from && minute < to;
      return (days.includes(day) && minute >= from) || (days.includes(before) && minute < to);
    });
  };
}

type WeekClock = (nowMs: number) => { readonly day: number; readonly minute: number };

/** Day of the week, from 0 for Monday, and minute of the day. Only for another zone `Intl`, which takes 10 MB of memory. */
function weekClock(timeZone: string): WeekClock {
  if (timeZone === "local") return localClock;
  if (timeZone === "UTC") return utcClock;
  let format: Intl.DateTimeFormat;
  try {
    format = new Intl.DateTimeFormat("en-GB", {
      ...{ timeZone, weekday: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
    });
  } catch (cause) {
    throw new SyntaxInvalid('expected "local", "UTC" or a time zone such as "Europe/Berlin"', { cause });
  }
  return (nowMs) => {
    const part = Object.fromEntries(format.formatToParts(nowMs).map(({ type, value }) => [type, value]));
    const day = DAYS.indexOf(String(part["weekday"]).toLowerCase());
    return { day, minute: Number(part["hour"]) * 60 + Number(part["minute"]) };
  };
}

const localClock: WeekClock = (nowMs) => {
  const at = new Date(nowMs);
  return { day: (at.getDay() + 6) % 7, minute: at.getHours() * 60 + at.getMinutes() };
};

const utcClock: WeekClock = (nowMs) => {
  const at = new Date(nowMs);
  return { day: (at.getUTCDay() + 6) % 7, minute: at.getUTCHours() * 60 + at.getUTCMinutes() };
};

function daysOf(text: string): number[] {
  const [first = "", last = first, ...more] = text.split("-");
  const [from, to] = [DAYS.indexOf(first), DAYS.indexOf(last)];
  if (from < 0 || to < 0 || more.length > 0) refuse();
  const count = ((to - from + 7) % 7) + 1;
  return Array.from({ length: count }, (_, at) => (from + at) % 7);
}

function minutes(hours: string | undefined, mins: string | undefined): number | undefined {
  const total = Number(hours) * 60 + Number(mins);
  return Number(mins) < 60 && total <= DAY_MIN ? total : undefined;
}

function refuse(): never {
  throw new SyntaxInvalid('expected hours such as "06:00-20:00" or "mon-fri 22:00-06:00"');
}
