import { batch } from "./verbs/batch.js";
import { config } from "./verbs/config.js";
import { cram } from "./verbs/cram.js";
import { deleteVerb } from "./verbs/delete.js";
import { enroll } from "./verbs/enroll.js";
import { from } from "./verbs/from.js";
import { info } from "./verbs/info.js";
import { keys } from "./verbs/keys.js";
import { llookup } from "./verbs/llookup.js";
import { lookup } from "./verbs/lookup.js";
import { monitor } from "./verbs/monitor.js";
import { noop } from "./verbs/noop.js";
import { notifyAll } from "./verbs/notify-all.js";
import { notifyFetch, notifyRemove, notifyStatus } from "./verbs/notify-by-id.js";
import { notifyList } from "./verbs/notify-list.js";
import { notify } from "./verbs/notify.js";
import { otp } from "./verbs/otp.js";
import { pkam } from "./verbs/pkam.js";
import { plookup } from "./verbs/plookup.js";
import { pol } from "./verbs/pol.js";
import { scan } from "./verbs/scan.js";
import { stats } from "./verbs/stats.js";
import { stream } from "./verbs/stream.js";
import { syncFrom } from "./verbs/sync-from.js";
import { updateMeta } from "./verbs/update-meta.js";
import { update } from "./verbs/update.js";
import type { VerbName } from "./command-line.js";
import type { VerbCodec } from "./verb-codec.js";

/** Every verb by name, for what takes any of them, such as the tests; client and atServer import the ones they use. */
export const VERBS = {
  from,
  cram,
  pkam,
  pol,
  update,
  "update:meta": updateMeta,
  llookup,
  lookup,
  plookup,
  scan,
  delete: deleteVerb,
  stats,
  config,
  monitor,
  stream,
  notify,
  "notify:list": notifyList,
  "notify:status": notifyStatus,
  "notify:fetch": notifyFetch,
  "notify:remove": notifyRemove,
  "notify:all": notifyAll,
  batch,
  "sync:from": syncFrom,
  info,
  noop,
  enroll,
  otp,
  keys,
} as const satisfies Record<VerbName, Pick<VerbCodec<unknown>, "usage" | "parse">>;
