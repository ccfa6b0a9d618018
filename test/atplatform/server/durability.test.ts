import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { readFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { spawn } from "@lydell/node-pty";
import t from "tap";
import { bundleCli } from "../../fixtures/bundled-cli.js";
import { AtedgeProcess } from "../../fixtures/atedge-process.js";
import { freePort } from "../../fixtures/mqtt-mosquitto.js";
import { WireClient } from "../../fixtures/wire-client.js";

// The platform as a child process: what it answered outlives it, however it ends.

const SECRET = "5".repeat(128);

interface Ready {
  readonly directoryPort: number;
  readonly caFile: string;
  readonly atSigns: readonly { readonly atSign: string; readonly port: number }[];
}

t.test("atedge platform as a process", async (t) => {
  await using cli = await bundleCli();
  const state = join(t.testdir(), "state");
  await mkdir(state);
  const run = async (...args: string[]): Promise<{ code: number | null; out: string; err: string }> =>
    await new AtedgeProcess(cli.path, ["platform", ...args, "--state", state]).ended;
  const start = async (): Promise<{ child: AtedgeProcess; ready: Ready }> => {
    const child = new AtedgeProcess(cli.path, ["platform", "--state", state, "--directory-port", "0", "--json"]);
    const ready = await child.until(
      ({ out }) => (out.includes("\n") ? (JSON.parse(out) as Ready) : undefined),
      "ready",
    );
    return { child, ready };
  };
  const connect = async ({ caFile, atSigns }: Ready, atSign: string): Promise<WireClient> => {
    const port = atSigns.find((hosted) => hosted.atSign === atSign)?.port ?? 0;
    const client = await WireClient.open({ port, caPem: readFileSync(caFile, "utf8") });
    await client.chunk();
    const reply = await client.cram(atSign, SECRET);
    if (!reply.startsWith("data:success")) throw new Error(reply);
    return client;
  };

  await t.test("atSigns are added before the platform runs and while it does; errors say what to do", async (t) => {
    const { writeFileSync, statSync } = await import("node:fs");
    const secretFile = join(t.testdir(), "secret");
    writeFileSync(secretFile, `@alice:${SECRET}\n`);
    t.equal((await run("add", "@alice", "--cram-secret-file", secretFile)).code, 0);
    const { child } = await start();
    const again = await run("add", "@alice");
    t.equal(again.code, 1);
    t.match(again.err, /hosted here already/u);
    const bobFile = join(t.testdir(), "bob");
    const added = await run("add", "@bob", "--cram-secret-file", bobFile, "--json");
    t.match(JSON.parse(added.out), { atSign: "@bob", host: "localhost", port: Number, cramSecretFile: bobFile });
    t.equal(statSync(bobFile).mode & 0o777, 0o600);
    for (const file of ["atsigns/alice.db", "atsigns/bob.db", "ca.key", "leaf-localhost.key"]) {
      t.equal(statSync(join(state, file)).mode & 0o777, 0o600, file);
    }
    const list = JSON.parse((await run("list", "--json")).out) as { atSign: string }[];
    t.same(
      list.map(({ atSign }) => atSign),
      ["@alice", "@bob"],
    );
    t.equal((await run("remove", "@bob")).code, 0);
    t.match((await run("list")).out, /^@alice\tlocalhost:\d+\n$/u);
    const second = await run("--directory-port", "0");
    t.match(second.err, /another process runs a platform/u);
    t.equal(second.code, 1);
    const stopped = await child.stop("SIGTERM");
    t.equal(stopped.code, 0);
    t.ok(stopped.tookMs < 5_000);
    const taken = createServer();
    await new Promise<void>((resolve) => taken.listen(0, "127.0.0.1", resolve));
    const { port } = taken.address() as AddressInfo;
    const inUse = await run("--directory-port", String(port));
    t.equal(inUse.code, 1);
    t.match(inUse.err, `port ${port} for the atDirectory is in use`);
    taken.close();
  });

  await t.test(
    "a secret is shown when its atSign is added, and never again; host and port can be chosen",
    async (t) => {
      const port = await freePort();
      const added = await run("add", "@carol", "--host", "carol.localhost", "--port", String(port));
      const [, secret = ""] = /shown this once.*\n([0-9a-f]{128})\n/u.exec(added.out) ?? [];
      t.not(secret, "", added.out);
      t.match(added.out, /will listen when the platform starts/u);
      const { child, ready } = await start();
      t.match(
        ready.atSigns.find(({ atSign }) => atSign === "@carol"),
        { host: "carol.localhost", port },
      );
      const client = await WireClient.open({
        port,
        serverName: "carol.localhost",
        caPem: readFileSync(ready.caFile, "utf8"),
      });
      await client.chunk();
      t.match(await client.cram("@carol", secret), /^data:success/u, "it is the one");
      client.close();
      const list = await run("list");
      t.match(list.out, `@carol\tcarol.localhost:${port}\n`, "also while it runs");
      t.equal((await run("add", "@carol")).code, 1);
      const { out, err } = await child.stop("SIGTERM");
      t.notMatch(list.out + out + err, secret);
      t.equal((await run("remove", "@carol")).code, 0);
    },
  );

  await t.test("on a terminal it says who is hosted, and shows a line of status", async (t) => {
    const terminal = spawn(process.execPath, [cli.path, "platform", "--state", state, "--directory-port", "0"], {
      env: { ...process.env, NODE_OPTIONS: "" },
      cols: 120,
    });
    let text = "";
    terminal.onData((data) => (text += data));
    const ended = new Promise<{ exitCode: number }>((resolve) => terminal.onExit(resolve));
    const status = /\r\u001b\[K\d+ atSigns · \d+ connections · \d+ monitors · \d+ commands\/s · \d+ look-ups · \d+ /u;
    for (let tries = 0; tries < 400 && !status.test(text); tries += 1) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    t.match(text, status);
    t.match(text, /atDirectory at localhost:\d+, certificate authority in /u);
    t.match(text, /@alice at localhost:\d+/u);
    terminal.kill("SIGINT");
    t.equal((await ended).exitCode, 0);
  });

  await t.test("every write that was answered survives SIGKILL, ten times over", async (t) => {
    const answered = new Map<string, string>();
    const queued = new Set<string>();
    const lastIds: number[] = [];
    for (let round = 0; round < 10; round += 1) {
      const { child, ready } = await start();
      const clients = await Promise.all(Array.from({ length: 4 }, () => connect(ready, "@alice")));
      let killed = false;
      const write = async (client: WireClient, who: number): Promise<void> => {
        for (let n = 0; !killed; n += 1) {
          const key = `r${round}w${who}n${n % 50}.wavi@alice`;
          const value = `value ${n}`;
          const reply = await client.ask(`update:${key} ${value}`).catch(() => "{close}");
          if (reply === "{close}") return;
          answered.set(key, value);
          lastIds.push(Number(/^data:(\d+)/u.exec(reply)?.[1]));
          const id = `r${round}w${who}n${n}`;
          if ((await client.ask(`notify:id:${id}:@far:${key}:v`).catch(() => "{close}")) === "{close}") return;
          queued.add(id);
        }
      };
      const writers = clients.map((client, who) => write(client, who));
      await new Promise((resolve) => setTimeout(resolve, 60 + Math.random() * 200));
      killed = true;
      await child.stop("SIGKILL");
      await Promise.all(writers);
    }
    t.ok(answered.size > 100, `${answered.size} records, ${queued.size} notifications`);
    t.equal(new Set(lastIds).size, lastIds.length, "no commit id was given twice");
    const { child, ready } = await start();
    const client = await connect(ready, "@alice");
    let lost = 0;
    for (const [key, value] of answered) {
      const reply = await client.data(`llookup:${key}`);
      // The write after the last answered one may have happened, too.
      if (Number(reply.slice(6)) < Number(value.slice(6))) lost += 1;
    }
    for (const id of queued) if ((await client.data(`notify:status:${id}`)) === "null") lost += 1;
    t.equal(lost, 0);
    client.close();
    t.equal((await child.stop("SIGTERM")).code, 0);
  });

  await t.test("a graceful stop answers what is in flight, and refuses what comes after", async (t) => {
    const { child, ready } = await start();
    const client = await connect(ready, "@alice");
    client.send("noop:500\nnoop:0\n");
    await new Promise((resolve) => setTimeout(resolve, 100));
    const ending = child.stop("SIGTERM");
    t.equal(await client.chunk(), "data:ok\n@alice@");
    t.match(await client.chunk(), /^(?:\{close\}|error:AT0024-)/u);
    t.equal((await ending).code, 0);
  });
});
