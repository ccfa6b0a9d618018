import { codeOf } from "../../core/errors.js";
import { DatabaseClosed, DiskSyncFailed } from "../../core/group-commit.js";
import { normaliseCommand, verbOf, type VerbName } from "../protocol/command-line.js";
import { enrollmentOf } from "./authorise.js";
import { invalidSyntax, Refusal } from "./refusal.js";
import type { Reply } from "./reply.js";
import type { Services } from "./services.js";
import { asRefusal, type Call, type Handler } from "./verb.js";
import { batchVerb } from "./verbs/batch.js";
import { configVerb } from "./verbs/config.js";
import { deleteVerb } from "./verbs/delete.js";
import { enrollVerb } from "./verbs/enroll.js";
import { fromVerb } from "./verbs/from.js";
import { infoVerb } from "./verbs/info.js";
import { keysVerb } from "./verbs/keys.js";
import { llookupVerb } from "./verbs/llookup.js";
import { cramVerb, pkamVerb } from "./verbs/login.js";
import { lookupVerb, plookupVerb } from "./verbs/lookup.js";
import { monitorVerb } from "./verbs/monitor.js";
import { noopVerb } from "./verbs/noop.js";
import { notifyAllVerb } from "./verbs/notify-all.js";
import { notifyFetchVerb, notifyListVerb, notifyRemoveVerb, notifyStatusVerb } from "./verbs/notify-by-id.js";
import { notifyVerb } from "./verbs/notify.js";
import { otpVerb } from "./verbs/otp.js";
import { polVerb } from "./verbs/pol.js";
import { scanVerb } from "./verbs/scan.js";
import { statsVerb } from "./verbs/stats.js";
import { syncVerb } from "./verbs/sync.js";
import { updateMetaVerb, updateVerb } from "./verbs/update.js";

const HANDLERS: Readonly<Partial<Record<VerbName, Handler>>> = {
  from: fromVerb,
  cram: cramVerb,
  pkam: pkamVerb,
  pol: polVerb,
  update: updateVerb,
  llookup: llookupVerb,
  lookup: lookupVerb,
  plookup: plookupVerb,
  scan: scanVerb,
  delete: deleteVerb,
  notify: notifyVerb,
  monitor: monitorVerb,
  info: infoVerb,
  noop: noopVerb,
  "update:meta": updateMetaVerb,
  "notify:list": notifyListVerb,
  "notify:status": notifyStatusVerb,
  "notify:fetch": notifyFetchVerb,
  "notify:remove": notifyRemoveVerb,
  "notify:all": notifyAllVerb,
  "sync:from": syncVerb,
  stats: statsVerb,
  config: configVerb,
  batch: batchVerb(dispatch),
  otp: otpVerb,
  enroll: enrollVerb,
  keys: keysVerb,
};

/**
 * Carries out one line, with the checks of spec 2.7 in their order: verb, authentication, enrolment, grammar.
 *
 * @throws a Refusal, whatever went wrong; an unexpected error becomes AT0011 and is logged.
 */
export async function dispatch(line: string, call: Call, services: Services): Promise<Reply> {
  const command = normaliseCommand(line);
  const name = verbOf(command);
  const handler = name && HANDLERS[name];
  if (!handler) throw invalidSyntax("invalid command");
  const { session } = call;
  if (handler.needsAuthentication && !session.authentication) {
    throw new Refusal("AT0401", "Command cannot be executed without auth");
  }
  if (enrollmentOf(session, services.enrollments, services.clock.now()) === undefined) return { type: "leave" };
  try {
    return await handler.run(command, call, services);
  } catch (error) {
    throw toRefusal(error, call, services);
  }
}

function toRefusal(error: unknown, { signal }: Call, { log }: Services): Refusal {
  const refusal = asRefusal(error);
  if (refusal instanceof Refusal) return refusal;
  if (signal.aborted)
    return new Refusal("AT0024", "Server is temporarily paused and should be available again shortly");
  if (isStoreFailure(error)) {
    log.error({ err: error }, "the store failed");
    return new Refusal("AT0002", "the data store failed", { cause: error });
  }
  log.error({ err: error }, "a command failed unexpectedly");
  return new Refusal("AT0011", "Exception: unexpected failure", { cause: error, closes: true });
}

function isStoreFailure(error: unknown): boolean {
  if (error instanceof DatabaseClosed || error instanceof DiskSyncFailed) return true;
  const code = codeOf(error);
  return code === "LIMIT_EXCEEDED" || code?.startsWith("SQLITE_") === true;
}
