import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { Scope } from "../../core/scope.js";
import { AtedgeProcess } from "../fixtures/atedge-process.js";
import { bundleCli } from "../fixtures/bundled-cli.js";
import { openAedes } from "../fixtures/mqtt-brokers.js";
import { PtyDevice } from "../fixtures/pty-device.js";

void t.test("atedge driver", async (t) => {
  const scope = new Scope();
  t.teardown(() => scope[Symbol.asyncDispose]());
  const cli = scope.use(await bundleCli());
  const device = await PtyDevice.open();
  scope.defer(() => device[Symbol.asyncDispose]());
  const broker = await openAedes();
  scope.defer(() => broker[Symbol.asyncDispose]());
  device.onLine = (line) => {
    const { id, cmd, on } = JSON.parse(line) as { id: number; cmd: string; on?: boolean };
    return cmd === "relay" ? JSON.stringify({ id, relay: on }) : undefined;
  };
  const config = join(t.testdir(), "atedge.toml");
  await writeFile(
    config,
    `atsign = "@greenhouse"
device = "north"
[[driver]]
id = "vent"
type = "serial"
path = "${device.path}"
ack = "ack {n}"
[[driver.command]]
name = "relay"
args = { on = { type = "boolean" } }
[[driver]]
id = "bench"
type = "mqtt"
url = "${broker.url}"
will = { topic = "north/status" }
[[driver.reading]]
topic = "bench/+"
name = "{1}"
`,
  );
  const start = (...args: string[]): AtedgeProcess => scope.use(new AtedgeProcess(cli.path, ["driver", ...args]));
  const seen = (process: AtedgeProcess, text: string): Promise<true> =>
    process.until(({ out }) => (out.includes(text) ? true : undefined), text);

  await t.test("test prints what one driver gives and how it fares, until Ctrl-C", async (t) => {
    // A pty that was open before would be open in the child too, and could not hang up.
    device.unplug();
    const vent = start("test", config, "vent");
    await seen(vent, "vent: waiting (DEVICE_GONE)");
    device.plug();
    await seen(vent, "vent: running");
    device.say('{"t":21.5,"n":1}');
    await seen(vent, "t = 21.5");
    device.unplug();
    await vent.until(({ out }) => (out.split("vent: waiting").length === 3 ? true : undefined), "the unplug");
    device.plug();
    await vent.until(({ out }) => (out.split("vent: running").length === 3 ? true : undefined), "the replug");
    const { code, out, err } = await vent.stop("SIGINT");
    t.equal(code, 0);
    t.equal(err, "");
    t.match(out, /\n {2}readings: whatever the device says\n {2}command relay \{"on":\{"type":"boolean"\}\}\n/u);
    t.match(out, /# opened 2, failed [1-9]\d*, readings 2,/u);
    t.strictSame(device.received, [], "nothing was acknowledged: the agent has not got it");
  });

  await t.test("test carries out a command", async (t) => {
    const good = await start("test", config, "vent", "--command", "relay", "--args", '{"on":true}', "--json").ended;
    t.equal(good.code, 0);
    const events = good.out
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { event: string });
    t.match(
      events.find(({ event }) => event === "answer"),
      { command: "relay", result: { id: 1, relay: true } },
    );
    const bad = await start("test", config, "vent", "--command", "relay", "--args", '{"on":1}').ended;
    t.equal(bad.code, 1);
    t.match(bad.out, "relay failed (COMMAND_REFUSED): on: expected boolean, got number");
  });

  await t.test("test leaves nothing at the broker and says nothing for the agent", async (t) => {
    const published: string[] = [];
    broker.onMessage("north/status", (payload) => void published.push(payload));
    const connected: object[] = [];
    broker.aedes.on("client", ({ id, clean }) => connected.push({ id, clean }));
    const bench = start("test", config, "bench", "--seconds", "60");
    await seen(bench, "bench: running");
    await broker.publish("bench/t", "21.5", 1);
    await seen(bench, "t = 21.5");
    t.match(connected, [{ id: /^atedge-test-/u, clean: true }], "no session is kept, and none is taken over");
    t.equal((await bench.stop("SIGTERM")).code, 0);
    t.strictSame(published, []);
  });

  await t.test("test fails for a driver that never opened, and for one that is not there", async (t) => {
    device.unplug();
    const away = await start("test", config, "vent", "--seconds", "0.5").ended;
    t.equal(away.code, 1);
    t.match(away.out, "is the cable plugged in?");
    const other = await start("test", config, "vnt").ended;
    t.equal(other.code, 2);
    t.match(other.err, 'no driver has the id "vnt"; did you mean vent?');
    t.equal((await start("test", config, "vent", "--seconds", "x").ended).code, 2);
    t.equal((await start("test", config, "vent", "--command", "relay", "--args", "[1]").ended).code, 2);
  });

  await t.test("discover prints configuration to paste", async (t) => {
    const { host } = new URL(broker.url);
    const text = await start("discover", "--host", host).ended;
    t.equal(text.code, 0);
    t.match(text.out, `url = "mqtt://${host}"`);
    const json = await start("discover", "--host", host, "--json").ended;
    t.match(JSON.parse(json.out), { brokers: [{ url: `mqtt://${host}`, isOpen: true }] });
  });
});
