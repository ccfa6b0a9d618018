import { CommandScanner } from "../command-scanner.js";
import { CommandInvalid, field, oneLine, type VerbCodec } from "../verb-codec.js";

export interface NotifyList {
  /** Days of UTC, `YYYY-MM-DD`, both inclusive. A `toDate` needs a `fromDate`. */
  readonly fromDate?: string;
  readonly toDate?: string;
  /** Without a colon. Searched for in the key, or in the sender without `@`. */
  readonly regex?: string;
}

const DATE = /^\d{4}-\d\d-\d\d$/u;
const LOOKS_LIKE_A_DATE = /^\d{4}-[01]?\d?-[0123]?\d?$/u;

/** `notify:list[:<from>][:<to>][:<regex>]`: received notifications that have not expired. */
export const notifyList: VerbCodec<NotifyList> = {
  usage: "e.g notify:list [regular expression]",

  format({ fromDate, toDate, regex }) {
    if (toDate !== undefined && fromDate === undefined) throw new CommandInvalid("a toDate needs a fromDate");
    const dates = [fromDate, toDate].flatMap((date) => (date === undefined ? [] : [`:${field("date", date, DATE)}`]));
    return oneLine(`notify:list${dates.join("")}${regex === undefined ? "" : `:${field("regex", regex, /^[^:]+$/u)}`}`);
  },

  parse(line) {
    const scanner = new CommandScanner(line, notifyList.usage);
    scanner.expect("notify:list");
    const fromDate = scanDate(scanner);
    const toDate = fromDate === undefined ? undefined : scanDate(scanner);
    const regex = scanner.skip(":") ? scanner.rest() : undefined;
    if (regex === "" || regex?.includes(":")) scanner.refuse();
    scanner.end();
    if (fromDate !== undefined && toDate !== undefined && toDate < fromDate) {
      throw new CommandInvalid("ToDate cannot be less than FromDate", "AT0022");
    }
    return {
      ...(fromDate !== undefined && { fromDate }),
      ...(toDate !== undefined && { toDate }),
      ...(regex !== undefined && { regex }),
    };
  },
};

function scanDate(scanner: CommandScanner): string | undefined {
  const date = scanner.takeIf(":", (word) => LOOKS_LIKE_A_DATE.test(word));
  if (date === undefined) return undefined;
  if (DATE.test(date) && !Number.isNaN(Date.parse(`${date}T00:00:00Z`))) return date;
  throw new CommandInvalid("Invalid date format", "AT0022");
}
