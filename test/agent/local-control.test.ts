import { mkdir, stat, writeFile } from "node:fs/promises";
import { createConnection } from "node:net";
import { once } from "node:events";
import { join } from "node:path";
import t from "tap";
import { AgentNotRunning, askAgent } from "../../agent/local-client.js";
import { LocalControl } from "../../agent/local-control.js";
import { EdgeError } from "../../core/errors.js";
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
    await t.rejects(askAgent(folder, "double"), AgentNotRunning);
    await writeFile(join(folder, "control.sock"), "");
    await t.rejects(askAgent(folder, "double"), AgentNotRunning);
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
    await t.rejects(asked, AgentNotRunning);
    await t.rejects(stat(join(folder, "control.sock")), { code: "ENOENT" }, "and leaves no socket behind");
  });
});
