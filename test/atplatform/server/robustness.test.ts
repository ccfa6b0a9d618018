import { join } from "node:path";
import { connect, type SecureVersion } from "node:tls";
import { existsSync } from "node:fs";
import { copyFile, mkdir, writeFile } from "node:fs/promises";
import fc from "fast-check";
import t from "tap";
import { CommandFramer } from "../../../atplatform/server/command-framer.js";
import { compileClientRegex } from "../../../atplatform/server/client-regex.js";
import { DevCa } from "../../../atplatform/server/dev-ca.js";
import { systemClock } from "../../../core/clock.js";
import { codeOf } from "../../../core/errors.js";
import { heldBytes } from "../../fixtures/held-bytes.js";
import { WireClient } from "../../fixtures/wire-client.js";
import { WireWorld } from "../../fixtures/wire-world.js";

const settings = { statsNotificationMs: -1 };

t.test("any bytes in", async (t) => {
  await using world = await WireWorld.open(t.testdir(), { settings: { ...settings, inboundMax: 20 } });
  await world.add("@alice");
  await world.activate("@alice");

  await t.test("the server answers every line, or closes by the rules, and stays up", async () => {
    const words = [
      "from:@alice",
      "pkam:x",
      "lookup:",
      "scan",
      "notify:",
      "enroll:request:{}",
      "update:",
      "@exit",
      "info",
      ":",
      "noop:0",
    ];
    const line = fc.oneof(
      fc.string({ unit: "binary", maxLength: 40 }),
      fc.tuple(fc.constantFrom(...words), fc.string({ maxLength: 20 })).map(([word, rest]) => word + rest),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(line, { maxLength: 6 }), async (lines) => {
        const client = await world.unauthenticated("@alice");
        const clean = lines.map((text) => text.replaceAll("\n", " "));
        client.send(clean.map((text) => `${text}\n`).join(""));
        let replies = 0;
        while (replies < clean.length) {
          const chunk = await client.chunk(6_000);
          if (chunk === "{close}") break;
          if (!/^(?:data|error):[^]*\n@$/u.test(chunk)) return false;
          replies += 1;
        }
        client.close();
        return true;
      }),
      { numRuns: 60 },
    );
    const after = await world.unauthenticated("@alice");
    await after.data("info:brief");
  });

  await t.test("bytes that make no sense end no more than their connection, and leave nothing behind", async (t) => {
    const words = [
      "update:k.wavi@alice ",
      "llookup:k.wavi@alice\n",
      "notify:@alice:k.wavi@alice:",
      "batch:[",
      "scan ",
      "@exit",
    ];
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 200 }),
      fc.constantFrom(...words).map((word) => Buffer.from(word)),
      fc.constantFrom("\n", "\r\n", "\u0000", ":", "@", " ").map((word) => Buffer.from(word)),
    );
    const play = async (isOwner: boolean, chunks: readonly Uint8Array[]): Promise<boolean> => {
      const client = isOwner ? await world.pkam("@alice") : await world.unauthenticated("@alice");
      for (const chunk of chunks) client.send(chunk);
      client.send("\nnoop:0\n");
      const prompt = isOwner ? "\n@alice@" : "\n@";
      for (let chunk = await client.chunk(6_000); chunk !== "{close}"; chunk = await client.chunk(6_000)) {
        if (!/^(?:data:|error:AT)/u.test(chunk) || !/\n@(?:[^@]+@)?$/u.test(chunk)) return false;
        if (chunk === `data:ok${prompt}`) break;
      }
      client.close();
      return true;
    };
    const run = (numRuns: number): Promise<void> =>
      fc.assert(fc.asyncProperty(fc.boolean(), fc.array(bytes, { maxLength: 12 }), play), { numRuns });
    await run(50);
    const before = await heldBytes();
    await run(100);
    const grown = (await heldBytes()) - before;
    t.ok(grown < 4_000_000, `${grown} bytes are held after 100 connections`);
    await (await world.unauthenticated("@alice")).data("info:brief");
  });

  await t.test("the replies are the same however the input was cut", async (t) => {
    const input = Buffer.from("noop:0\nfrobnicate\r\n\nlookup:publickey@alice\nscan nothing\ninfo 🦄\n");
    const play = async (cuts: readonly number[]): Promise<string> => {
      const client = await world.unauthenticated("@alice");
      let from = 0;
      for (const cut of [...cuts, input.length]) {
        client.send(input.subarray(from, cut));
        from = cut;
        await new Promise(setImmediate);
      }
      let text = "";
      for (let replies = 0; replies < 6; replies += 1) text += await client.chunk();
      client.close();
      return text;
    };
    const whole = await play([]);
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(input.length), { maxLength: 8 }), async (cuts) => {
        return (await play([...cuts].sort((a, b) => a - b))) === whole;
      }),
      { numRuns: 30 },
    );
    t.match(whole, /^data:ok\n@error:AT0003/u);
  });

  await t.test("one connection too many is told so and closed", async (t) => {
    const clients: WireClient[] = [];
    let last = "";
    for (let i = 0; i < 21; i += 1) {
      const client = await WireClient.open({ port: world.portOf("@alice"), caPem: world.platform.caPem });
      clients.push(client);
      last = await client.chunk();
      if (last !== "@") break;
    }
    t.equal(last, "error:AT0012-Inbound connection limit exceeded\n");
    for (const client of clients) client.close();
  });
});

t.test("TLS 1.2 and 1.3 are spoken, and nothing older", async (t) => {
  await using world = await WireWorld.open(t.testdir(), { settings });
  await world.add("@alice");
  const greeting = (port: number, version: SecureVersion): Promise<string> =>
    new Promise((resolve) => {
      const socket = connect({
        ...{ host: "127.0.0.1", port, servername: "localhost", ca: world.platform.caPem },
        ...{ minVersion: version, maxVersion: version, ciphers: "DEFAULT@SECLEVEL=0" },
      });
      socket.once("data", (bytes: Buffer) => {
        resolve(`${socket.getProtocol() ?? ""} ${bytes.toString()}`);
        socket.destroy();
      });
      socket.once("error", (error) => resolve(codeOf(error) ?? ""));
    });
  for (const port of [world.portOf("@alice"), world.platform.directoryPort]) {
    for (const version of ["TLSv1.2", "TLSv1.3"] as const) t.equal(await greeting(port, version), `${version} @`);
    t.match(await greeting(port, "TLSv1.1"), /^(?:ERR_SSL|ECONNRESET)/u);
  }
});

t.test("an idle connection ends, one that is logged in does not", async (t) => {
  await using world = await WireWorld.open(t.testdir(), { settings: { ...settings, unauthenticatedIdleMs: 0 } });
  await world.add("@alice");
  await world.activate("@alice");
  const A = await world.pkam("@alice");
  const U = await world.unauthenticated("@alice");
  await new Promise((resolve) => setTimeout(resolve, 20));
  await world.unauthenticated("@alice"); // a new connection makes the server look
  t.equal(await U.chunk(), "{close}");
  t.equal(await A.ask("noop:0"), "data:ok\n@alice@");
});

t.test("a slow reader of notifications costs no memory, and misses none", async (t) => {
  await using world = await WireWorld.open(t.testdir(), { settings });
  await world.add("@alice");
  await world.activate("@alice");
  const M = await world.pkam("@alice");
  M.send("monitor:strict \\.slow\n");
  t.ok(await M.silent(30));
  M.socket.pause();
  const A = await world.pkam("@alice");
  const value = "v".repeat(100_000);
  const before = await heldBytes();
  for (let i = 0; i < 200; i += 1) await A.data(`notify:id:n${i}:@alice:n${i}.slow@alice:${value}`);
  const held = (await heldBytes()) - before;
  t.ok(held < 8_000_000, `${held} of 20,000,000 bytes are held`);
  M.socket.resume();
  const ids: string[] = [];
  let text = "";
  while (ids.length < 200) {
    text += await M.chunk();
    const lines = text.split("\n");
    text = lines.pop() ?? "";
    ids.push(...lines.map((line) => (JSON.parse(line.slice("notification: ".length)) as { id: string }).id));
  }
  t.same(
    ids,
    Array.from({ length: 200 }, (_, i) => `n${i}`),
  );
});

t.test("a disk that fails a sync costs an error and a restart of the atServer, nothing more", async (t) => {
  let fails = false;
  const syncOrFail = async (): Promise<void> => {
    if (fails) throw Object.assign(new Error("EIO: i/o error"), { code: "EIO" });
  };
  await using world = await WireWorld.open(t.testdir(), {
    settings,
    disk: { fdatasync: syncOrFail, fsync: syncOrFail },
  });
  await world.add("@alice");
  await world.activate("@alice");
  const A = await world.pkam("@alice");
  await A.data("update:before.wavi@alice v");
  fails = true;
  t.match(await A.ask("update:during.wavi@alice v"), /^error:AT0002-DataStore exception : /u);
  t.equal(await A.chunk(), "{close}");
  fails = false;
  await world.platform.checkHealth();
  const again = await world.pkam("@alice");
  t.equal(await again.data("llookup:before.wavi@alice"), "v");
  await again.data("update:after.wavi@alice v");
});

t.test("one port for all, told apart by the server name", async (t) => {
  const stateDir = t.testdir();
  const { openPlatform } = await import("../../../atplatform/server/platform.js");
  const platform = await openPlatform(
    { stateDir, settings, host: "edge.example", bind: "127.0.0.1", sharedPort: 0 },
    new AbortController().signal,
  );
  t.teardown(() => platform[Symbol.asyncDispose]());
  const alice = await platform.add("@alice");
  const bob = await platform.add("@bob🛠");
  t.equal(alice.host, "alice.edge.example");
  t.match(bob.host, /^xn--bob-[a-z0-9]+\.edge\.example$/u);
  t.equal(alice.port, bob.port);
  const greeting = (servername: string | undefined): Promise<string> =>
    new Promise((resolve) => {
      const options = { host: "127.0.0.1", port: alice.port, ca: platform.caPem };
      const socket = connect({
        ...options,
        ...(servername === undefined ? { checkServerIdentity: () => undefined } : { servername }),
      });
      socket.once("data", (bytes: Buffer) => {
        resolve(bytes.toString());
        socket.destroy();
      });
      socket.once("error", (error: Error) => resolve(error.message));
      socket.once("close", () => resolve("closed"));
    });
  t.equal(await greeting("alice.edge.example"), "@");
  t.equal(await greeting(bob.host), "@");
  t.not(await greeting("carol.edge.example"), "@", "an unknown name");
  t.not(await greeting(undefined), "@", "no name");
});

t.test("certificate files are read again when they change, and open connections go on", async (t) => {
  const dir = t.testdir();
  const ca = await DevCa.open(join(dir, "ca"), systemClock);
  const files = { certFile: join(dir, "cert", "{host}.pem"), keyFile: join(dir, "cert", "{host}.key") };
  await mkdir(join(dir, "cert"));
  const install = async (name: string): Promise<void> => {
    const renewed = await DevCa.open(join(dir, "ca"), systemClock);
    await renewed.leafFor(name === "first" ? ["localhost"] : ["localhost", "second.example"]);
    await copyFile(join(dir, "ca", "leaf-localhost.pem"), join(dir, "cert", "localhost.pem"));
    await copyFile(join(dir, "ca", "leaf-localhost.key"), join(dir, "cert", "localhost.key"));
  };
  await install("first");
  const { openPlatform } = await import("../../../atplatform/server/platform.js");
  const platform = await openPlatform(
    { stateDir: join(dir, "state"), settings, certificate: files, extraCaPem: ca.caPem },
    new AbortController().signal,
  );
  t.teardown(() => platform[Symbol.asyncDispose]());
  const { port } = await platform.add("@alice");
  const open = (): Promise<WireClient> => WireClient.open({ port, caPem: ca.caPem });
  const before = await open();
  t.equal(await before.chunk(), "@");
  await install("second");
  await writeFile(join(dir, "cert", "restart"), "");
  await platform.refreshIdentities();
  t.notOk(existsSync(join(dir, "cert", "restart")), "the updater learns that it was done");
  const after = await open();
  t.match(after.socket.getPeerCertificate().subjectaltname, /second\.example/u);
  t.notMatch(before.socket.getPeerCertificate().subjectaltname, /second/u);
  t.equal(await before.ask("noop:0"), "data:ok\n@");
  const directory = await WireClient.open({ port: platform.directoryPort, caPem: ca.caPem });
  t.match(directory.socket.getPeerCertificate().subjectaltname, /second\.example/u);
  for (const client of [before, after, directory]) client.close();
});

t.test("CommandFramer", async (t) => {
  t.test("gives the same lines however the bytes were cut", async () => {
    fc.assert(
      fc.property(fc.array(fc.string({ maxLength: 30 })), fc.array(fc.nat(400)), (texts, cuts) => {
        const bytes = Buffer.from(texts.map((text) => `${text.replaceAll("\n", "")}\n`).join(""));
        const framer = new CommandFramer();
        const lines: Buffer[] = [];
        let from = 0;
        for (const cut of [...cuts.filter((at) => at < bytes.length).sort((a, b) => a - b), bytes.length]) {
          framer.push(bytes.subarray(from, cut), lines);
          from = cut;
        }
        return Buffer.concat(lines.flatMap((line) => [line, Buffer.from("\n")])).equals(bytes);
      }),
    );
  });

  t.test("refuses a line over its limit, which may grow while a line is held", async (t) => {
    const framer = new CommandFramer();
    const lines: Buffer[] = [];
    framer.push(Buffer.alloc(64 * 1024, "a"), lines);
    t.throws(() => framer.push(Buffer.from("a"), []), { code: "LIMIT_EXCEEDED" });
    const grown = new CommandFramer();
    grown.push(Buffer.alloc(60_000, "a"), lines);
    grown.maxBytes = 100_000;
    grown.push(Buffer.from(`${"b".repeat(30_000)}\n`), lines);
    t.equal(lines.at(-1)?.length, 90_000);
  });
});

t.test("expressions of clients", async (t) => {
  t.test("cannot stop the server", async (t) => {
    const usedMs = (): number => process.cpuUsage().user / 1000;
    const startMs = usedMs();
    t.equal(compileClientRegex("^(a+)+$").test(`${"a".repeat(5_000)}b`), false);
    const backtracking = compileClientRegex("^(?!x)(a+)+$");
    t.throws(() => backtracking.test(`${"a".repeat(40)}b`), { code: "AT0003" });
    t.throws(() => backtracking.test("a"), { code: "AT0003" }, "its time is used up");
    t.ok(usedMs() - startMs < 1_500);
  });

  t.test("of a monitor last as long as it does, unless one takes too long", async (t) => {
    const regex = compileClientRegex("^(?!x)(a+)+$", "monitor");
    let matches = 0;
    for (let n = 0; n < 5_000; n += 1) if (regex.test("aaa")) matches += 1;
    t.equal(matches, 5_000);
    t.throws(() => regex.test(`${"a".repeat(40)}b`), { code: "AT0003" });
    t.throws(() => regex.test("aaa"), { code: "AT0003" });
  });

  t.test("match as JavaScript's do", async (t) => {
    for (const [pattern, text, matches] of [
      [".*\\.new\\.enrollments\\.__manage", "1.new.enrollments.__manage@alice", true],
      ["\\.wavi@", "phone.wavi@alice", true],
      ["^@bob:", "phone@alice", false],
      ["^(?!public:)", "public:x@alice", false],
      ["🦄", "🦄.wavi@alice", true],
    ] as const) {
      t.equal(compileClientRegex(pattern).test(text), matches, pattern);
    }
    t.throws(() => compileClientRegex("(("), { code: "AT0003" });
    t.throws(() => compileClientRegex("a".repeat(2_000)), { code: "AT0003" });
  });
});
