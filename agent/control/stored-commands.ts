import { codeOf, EdgeError } from "../../core/errors.js";
import { answerKey, type DeviceAddress } from "../../messages/names.js";
import { formatAnswer } from "../../messages/rpc.js";
import type { NewAnswer } from "../store/answers.js";
import type { LedgerEntry as StoredEntry } from "../store/ledger.js";
import type { Store } from "../store/store.js";
import type { Answer, CommandStore, LedgerEntry, Outcome } from "./ledger.js";

/** The disk or the database does not take what is to be written. */
export class CommandsUnwritable extends EdgeError {
  override readonly code = "COMMANDS_UNWRITABLE";
}

/** How long an answer is worth sending: a caller that has gone away asks again and gets it from the ledger. */
const ANSWER_LIFE_MS = 5 * 60_000;
const ACK_LIFE_MS = 30_000;

/** What the ledger keeps of a command beside its caller, id and times. */
type Detail = Pick<LedgerEntry, "reqId" | "target" | "command" | "digest" | "sealed">;

/** The agent's store as the place of commands and answers. */
export function storedCommands(
  store: Pick<Store, "ledger" | "answers" | "flush">,
  address: DeviceAddress,
  nowMs: () => number,
): CommandStore {
  const { ledger, answers } = store;
  const outgoing = ({ to, type, reqId, payload, message, sealed }: Answer): NewAnswer => ({
    to,
    name: answerKey(address, type, reqId),
    body: formatAnswer({ reqId, respType: type, payload, message }),
    sealed,
    expiresMs: Math.round(nowMs()) + (type === "ack" ? ACK_LIFE_MS : ANSWER_LIFE_MS),
  });
  /** A caller waits, so the write does not wait for readings to share its commit. */
  const written = async <T>(write: Promise<T>): Promise<T> => {
    try {
      const [result] = await Promise.all([write, store.flush()]);
      return result;
    } catch (cause) {
      if (cause instanceof EdgeError || codeOf(cause) === undefined) throw cause;
      throw new CommandsUnwritable("the store does not take it", { cause });
    }
  };
  return {
    get ledgerBornAtMs() {
      return ledger.birthMs;
    },
    find(caller, id) {
      const stored = ledger.find(caller, id);
      return stored && entryOf(stored);
    },
    unfinished: () => ledger.unfinished().map(entryOf),
    async accept({ caller, id, reqId, target, command, digest, sealed, expiresAtMs }) {
      const detail: Detail = { reqId, target, command, digest, sealed };
      const times = { acceptedMs: Math.round(nowMs()), expiresMs: expiresAtMs };
      const { kind } = await written(ledger.accept({ caller, id, detail, ...times }));
      // Whoever accepts has looked for it in this very moment.
      if (kind === "repeat") throw new Error(`the command ${id} of ${caller} was accepted twice`);
    },
    finish: ({ caller, id }, outcome, answer) =>
      written(ledger.finish(caller, id, outcome, answer && outgoing(answer))),
    queueAnswer: (answer) => written(answers.put(outgoing(answer))),
  };
}

/** Both were written by this file. */
function entryOf({ caller, id, detail, expiresMs, answer }: StoredEntry): LedgerEntry {
  const { reqId, target, command, digest, sealed } = detail as Detail;
  const outcome = (answer as Outcome | undefined) ?? undefined;
  return { caller, id, reqId, target, command, digest, sealed, expiresAtMs: expiresMs, outcome };
}
