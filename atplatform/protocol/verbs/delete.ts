import { CommandScanner } from "../command-scanner.js";
import { scanName, scanScope } from "../key-grammar.js";
import { field, oneLine, type VerbCodec } from "../verb-codec.js";
import type { Priority } from "./notify.js";

export interface Delete {
  /** Of the notification that goes to the receiver of a shared record. */
  readonly priority?: Priority;
  /** Full name as stored. */
  readonly key: string;
}

const KEY = /^(?:cached:)?(?:(?:public|@[^:@\s]+):)?[^:@\s]+(?:@[^:@\s]+)?$|^privatekey:at_secret$/u;

/** `delete[:priority:low|:medium|:high]:<key>`. A `delete` of what does not exist succeeds. */
export const deleteVerb: VerbCodec<Delete> = {
  usage: "syntax delete:@<atkey>   e.g delete:phone@alice",

  format: ({ priority, key }) =>
    oneLine(`delete${priority === undefined ? "" : `:priority:${priority}`}:${field("key", key, KEY)}`),

  parse(line) {
    const scanner = new CommandScanner(line, deleteVerb.usage);
    scanner.expect("delete");
    const priority = scanner.choiceBeforeColon(":priority:", ["low", "medium", "high"]);
    const cached = scanner.skipBeforeColon(":cached");
    const scope = scanScope(scanner);
    const isSecret = scope === undefined && !cached && scanner.skip(":privatekey:at_secret");
    const key = isSecret ? "privatekey:at_secret" : scanName(scanner, scope, cached);
    scanner.end();
    return { ...(priority && { priority }), key };
  },
};
