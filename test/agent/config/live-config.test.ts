import t from "tap";
import { changedPaths } from "../../../agent/config/changes.js";
import { type ConfigChange, LiveConfig } from "../../../agent/config/live-config.js";
import { type AgentConfig, parseConfig } from "../../../agent/config/parse.js";
import { silentLog } from "../../../core/log.js";

const BASE = 'atsign = "@greenhouse"\ndevice = "north"\n';
const DRIVER = '[[driver]]\nid = "sim"\ntype = "simulated"\nname = "level"\n';

t.test("the paths of what has changed", async (t) => {
  const before = { maxBatch: 1, outbox: { maxBytes: 2 }, driver: [{ id: "a", baud: 1 }, { id: "b" }], list: ["x"] };
  t.same(changedPaths(before, structuredClone(before)), []);
  t.same(
    changedPaths(before, {
      ...{ maxBatch: 2, outbox: { maxBytes: 3 }, list: ["x", "y"], more: { a: 1 } },
      driver: [{ id: "c" }, { id: "a", baud: 2 }, { id: "b" }],
    }),
    ["maxBatch", "outbox.maxBytes", "driver.a.baud", "driver.c", "list", "more"],
  );
  const allow = (...commands: string[]) => ({ allow: commands.map((c) => ({ atsign: "@a", commands: [c] })) });
  t.same(changedPaths(allow("x", "y"), allow("x", "z")), ["allow.@a#2.commands"]);
});

t.test("a configuration that is read anew", async (t) => {
  let text = BASE + DRIVER;
  const applied: AgentConfig[] = [];
  const changes: ConfigChange[] = [];
  const live = new LiveConfig({
    config: parseConfig(text, "/").config,
    load: async () => parseConfig(text, "/"),
    apply: async (config) => void applied.push(config),
    onChange: (change) => changes.push(change),
    log: silentLog,
  });
  t.match(live.health(), [{ name: "config", state: "ok" }]);

  text = BASE.replace("north", "north!");
  await t.rejects(live.reload("SIGHUP"), { code: "CONFIG_INVALID" });
  t.equal(applied.length, 0, "one with a fault changes nothing");
  t.equal(live.config.driver.length, 1);
  t.match(live.health(), [{ state: "degraded", code: "CONFIG_INVALID" }]);

  text = `${BASE}maxBatch = 7\n${DRIVER}intervalMs = 70\n`;
  const change = { by: "SIGHUP", changed: ["maxBatch", "driver.sim.intervalMs"], atRestart: ["maxBatch"] };
  t.same(await live.reload("SIGHUP"), change);
  t.equal(applied.length, 1);
  t.match(live.health(), [{ state: "degraded", code: "RESTART_NEEDED" }]);

  text = BASE + DRIVER;
  t.same((await live.reload("@grower")).atRestart, [], "what is as at the start needs no restart");
  t.match(live.health(), [{ state: "ok" }]);
  t.equal(changes.length, 2);
});
