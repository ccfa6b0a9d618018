import { CommandScanner } from "../command-scanner.js";
import { field, oneLine, type VerbCodec } from "../verb-codec.js";

export interface NotificationId {
  readonly id: string;
}

const ID = /^[\w-]+$/u;

function byId(verb: string, usage: string): VerbCodec<NotificationId> {
  return {
    usage,
    format: ({ id }) => oneLine(`${verb}:${field("id", id, ID)}`),
    parse(line) {
      const scanner = new CommandScanner(line, usage);
      scanner.expect(`${verb}:`);
      const id = scanner.rest();
      return ID.test(id) ? { id } : scanner.refuse();
    },
  };
}

/** `notify:status:<id>`: what became of a notification. */
export const notifyStatus = byId("notify:status", "e.g notify:status:<notification-id>");
/** `notify:fetch:<id>`: all about a notification. */
export const notifyFetch = byId("notify:fetch", "e.g notify:fetch:<notification-id>");
/** `notify:remove:<id>`: forgets a notification; succeeds also when it is not known. */
export const notifyRemove = byId("notify:remove", "e.g notify:remove:<notificationId>");
