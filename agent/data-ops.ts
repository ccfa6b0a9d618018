import type { Clock } from "../core/clock.js";
import type { DataBudget } from "./budget/data-budget.js";
import type { LocalControl } from "./local-control.js";
import type { Store } from "./store/store.js";
import type { Uplink } from "./uplink/uplink.js";

export interface DataOps {
  readonly store: Store;
  readonly uplink: Pick<Uplink, "nudge">;
  readonly budget: Pick<DataBudget, "use">;
  readonly clock: Pick<Clock, "now">;
}

const MAX_LISTED = 1000;

/**
 * What this machine can ask of the data path:
 *
 * - `data` gives a `DataUse`.
 * - `outbox` gives a `StoreHealth`, and for each stream its reader, class, life and waiting messages.
 * - `aside.list {after?, limit?}` gives `{aside, forgotten, entries: AsideSummary[]}`, oldest first.
 * - `aside.show {id}` gives an `AsideEntry`; `aside.retry {id}` and `aside.drop {id}` give null.
 */
export function addDataOps(control: LocalControl, { store, uplink, budget, clock }: DataOps): void {
  const { setAside, streams } = store;
  control.add("data", () => budget.use);
  control.add("outbox", () => ({
    ...store.health,
    streams: streams.list().map((stream) => ({ ...stream, unreceipted: streams.formed(stream.id).length })),
  }));
  control.add("aside.list", (args) => ({
    ...setAside.counts,
    entries: setAside.list({
      after: args.optional("after")?.integer(0, Number.MAX_SAFE_INTEGER) ?? 0,
      limit: args.optional("limit")?.integer(1, MAX_LISTED) ?? MAX_LISTED,
    }),
  }));
  const idOf = (args: Parameters<Parameters<LocalControl["add"]>[1]>[0]): number =>
    args.at("id").integer(1, Number.MAX_SAFE_INTEGER);
  control.add("aside.show", (args) => setAside.get(idOf(args)));
  control.add("aside.retry", async (args) => {
    await setAside.retry(idOf(args), Math.round(clock.now()));
    uplink.nudge();
  });
  control.add("aside.drop", (args) => setAside.drop(idOf(args)));
}
