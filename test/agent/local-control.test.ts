import { mkdir, stat, writeFile } from "node:fs/promises";
import { createConnection } from "node:net";
import { once } from "node:events";
import { join } from "node:path";
import t from "tap";
import { askAgent } from "../../agent/local-client.js";
import { LocalControl } from "../../agent/local-control.js";
import { EdgeError } from "../../core/errors.js";
import { addDataOps } from "../../agent/data-ops.js";
import { openStore } from "../../agent/store/store.js";
import { systemClock } from "../../core/clock.js";
import { silentLog } from "../../core/log.js";

class Refused extends EdgeError {
  override readonly code = "REFUSED";
}

t.test("the local control", async (t) => {
  const folder = t.testdir();

  t.test("answers what it was taught, for the owner of the socket only", async (t) => {
    await using control = await LocalControl.open(folder, silentLog);
    control.add("double", (args) => ({ n: 2 * args.at("n").integer(0, 100) }));
    control.add("nothing", () => undefined);
    control.add("no", () => {
      throw new Refused("not today");
    });
    t.equal((await stat(join(folder, "control.sock"))).mode & 0o777, 0o600);
    t.same(await askAgent(folder, "double", { n: 21 }), { n: 42 });
    t.equal(await askAgent(folder, "nothing"), null);
    await t.rejects(askAgent(folder, "double", { n: "x" }), { code: "SYNTAX_INVALID", message: /args\.n/u });
    await t.rejects(askAgent(folder, "no"), { code: "REFUSED", message: "not today" });
    await t.rejects(askAgent(folder, "fly"), { code: "UNKNOWN_OP", message: /double, nothing, no/u });
    t.throws(() => control.add("no", () => 1), /already/u);
  });

  t.test("takes the place of a socket that a dead agent has left, and says when nobody is there", async (t) => {
    await t.rejects(askAgent(folder, "double"), { code: "AGENT_NOT_RUNNING" });
    await writeFile(join(folder, "control.sock"), "");
    await t.rejects(askAgent(folder, "double"), { code: "AGENT_NOT_RUNNING" });
    await using control = await LocalControl.open(folder, silentLog);
    control.add("hi", () => "hi");
    t.equal(await askAgent(folder, "hi"), "hi");
  });

  t.test("works in a folder deeper than the path of a socket may be long", async (t) => {
    const deep = join(folder, "d".repeat(100), "e".repeat(100));
    await mkdir(deep, { recursive: true });
    await using control = await LocalControl.open(deep, silentLog);
    control.add("hi", () => "hi");
    t.equal(await askAgent(deep, "hi"), "hi");
  });

  t.test(
    "answers requests of one connection in their order, and ends one that sends nonsense without end",
    async (t) => {
      await using control = await LocalControl.open(folder, silentLog);
      control.add("echo", async (args) => {
        await new Promise((resolve) => setTimeout(resolve, 20 - args.at("n").integer(0, 20)));
        return args.at("n").value;
      });
      const socket = createConnection(join(folder, "control.sock"));
      let text = "";
      socket.on("data", (chunk) => (text += chunk.toString()));
      socket.write('{"op":"echo","args":{"n":1}}\n{"op":"echo","args":{"n":15}}\nnonsense\n');
      while (text.split("\n").length < 4) await once(socket, "data");
      t.same(
        text
          .trim()
          .split("\n")
          .map((line) => (JSON.parse(line) as { result?: number; code?: string }).result),
        [1, 15, undefined],
      );
      socket.write("x".repeat(70_000));
      await once(socket, "close");
      t.pass("it was closed");
    },
  );

  t.test("tells whoever waits when the agent ends", async (t) => {
    const control = await LocalControl.open(folder, silentLog);
    control.add("hang", () => new Promise(() => undefined));
    const asked = askAgent(folder, "hang");
    setTimeout(() => void control[Symbol.asyncDispose](), 50);
    await t.rejects(asked, { code: "AGENT_NOT_RUNNING" });
    await t.rejects(stat(join(folder, "control.sock")), { code: "ENOENT" }, "and leaves no socket behind");
  });
});

t.test("the data path can be asked for its outbox, its data and what it has set aside", async (t) => {
  const folder = t.testdir();
  const store = await openStore({ folder, readers: ["@grower"], clock: systemClock, log: silentLog });
  t.teardown(() => store.close());
  await using control = await LocalControl.open(folder, silentLog);
  let nudged = 0;
  const use = { month: "2026-11", sentBytes: 1, receivedBytes: 2, budgetBytes: 5, plannedBytes: 4, stretch: 1 };
  addDataOps(control, { store, uplink: { nudge: () => (nudged += 1) }, budget: { use }, clock: systemClock });
  await store.publish([{ name: "n", value: 1 }]);
  const id = store.streams.list().find((stream) => stream.class === "measurement")?.id ?? 0;
  await store.streams.form(id, { maxReadings: 10, maxBytes: 1000 });
  const aside = (seq: number): Promise<boolean> =>
    store.streams.setAside(id, seq, "AT0005: too long", 5, (entry) => store.setAside.add(entry));
  t.same(await askAgent(folder, "data"), use);
  t.match(await askAgent(folder, "outbox"), { state: "ok", accepted: 1, streams: [{}, {}, { unreceipted: 1 }] });
  await aside(1);
  t.match(await askAgent(folder, "aside.list"), {
    aside: 1,
    entries: [{ id: 1, reader: "@grower", class: "measurement", why: /AT0005/u }],
  });
  t.match(await askAgent(folder, "aside.show", { id: 1 }), { content: /"value":1/u });
  t.equal(await askAgent(folder, "aside.retry", { id: 1 }), null);
  t.equal(nudged, 1);
  t.match(store.streams.formed(id).at(-1), { seq: 2 });
  await aside(2);
  t.equal(await askAgent(folder, "aside.drop", { id: 2 }), null);
  await t.rejects(askAgent(folder, "aside.drop", { id: 2 }), { code: "NOT_ASIDE" });
  await t.rejects(askAgent(folder, "aside.show", { id: "x" }), { code: "SYNTAX_INVALID" });
});
