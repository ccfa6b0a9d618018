import { createServer } from "node:net";
import t from "tap";
import { parseAtSign } from "../../../atplatform/protocol/at-sign.js";
import { connectTls, TlsSessions } from "../../../atplatform/transport/connect.js";
import { type Connect, Directory, parseDirectoryAddress } from "../../../atplatform/transport/directory.js";
import { formatHostPort, parseHostPort } from "../../../atplatform/transport/host-port.js";
import { listenTls, type ServerIdentity, type TlsListener } from "../../../atplatform/transport/listen.js";
import type { TlsChannel } from "../../../atplatform/transport/tls-channel.js";
import { Traffic } from "../../../core/traffic.js";
import { openCuttingProxy } from "../../fixtures/cutting-proxy.js";
import { ManualClock } from "../../fixtures/manual-clock.js";
import { openScripted } from "../../fixtures/scripted-server.js";
import { makeAuthority } from "../../fixtures/test-tls.js";

const never = new AbortController().signal;
const alice = parseAtSign("@alice");

const echo = async (channel: TlsChannel): Promise<void> => {
  await channel.read((chunk) => channel.write(chunk));
};

const listen = (identity: ServerIdentity, serve = echo, contextFor?: () => undefined): Promise<TlsListener> =>
  listenTls(
    { host: "127.0.0.1", port: 0, identity, onFailure: () => undefined, ...(contextFor && { contextFor }) },
    serve,
    never,
  );

/** What comes back until `text` has come whole. */
const readUntil = (channel: TlsChannel, text: string): Promise<string> =>
  new Promise((resolve, reject) => {
    let got = "";
    const ended = channel.read((chunk) => {
      got += chunk.toString();
      if (got.includes(text)) resolve(got);
    });
    ended.then(() => resolve(got), reject);
  });

t.test("connectTls", async (t) => {
  const authority = await makeAuthority();
  const { caPem: ca } = authority;
  const good = await authority.leaf(["localhost", "127.0.0.1"]);

  t.test("carries bytes both ways, by name and by address", async (t) => {
    await using server = await listen(good);
    for (const host of ["localhost", "127.0.0.1"]) {
      await using channel = await connectTls({ host, port: server.port, ca }, never);
      const got = readUntil(channel, "hello");
      await channel.write("hello", never);
      t.equal(await got, "hello", host);
      t.equal(channel.closed, false);
    }
  });

  t.test("tells apart why a certificate is no good", async (t) => {
    const cases = [
      ["of an unknown authority", await (await makeAuthority("other")).leaf(["127.0.0.1"]), "CERTIFICATE_REFUSED"],
      ["for another host", await authority.leaf(["elsewhere.example"]), "CERTIFICATE_REFUSED"],
      ["that has expired", await authority.leaf(["127.0.0.1"], { from: -9, until: -1 }), "CERTIFICATE_REFUSED"],
      ["that is not yet valid", await authority.leaf(["127.0.0.1"], { from: 1, until: 9 }), "CLOCK_FAULT"],
    ] as const;
    for (const [name, identity, code] of cases) {
      await using server = await listen(identity);
      await t.rejects(connectTls({ host: "127.0.0.1", port: server.port, ca }, never), { code }, name);
    }
    await using server = await listen(good);
    await t.rejects(connectTls({ host: "127.0.0.1", port: server.port }, never), { code: "CERTIFICATE_REFUSED" });
  });

  t.test("says what stands in the way of a connection", async (t) => {
    const server = await listen(good);
    const { port } = server;
    await server[Symbol.asyncDispose]();
    for (const counted of [{}, { traffic: new Traffic() }]) {
      await t.rejects(connectTls({ host: "127.0.0.1", port, ca, ...counted }, never), {
        code: "CONNECT_FAILED",
        message: `no connection to 127.0.0.1:${port}: ECONNREFUSED`,
      });
      const unknown = { host: "no-such-host.invalid", port: 1, ca, ...counted };
      await t.rejects(connectTls(unknown, never), { code: "CONNECT_FAILED" });
    }
    await using unnamed = await listen(good, echo, () => undefined);
    await t.rejects(connectTls({ host: "localhost", port: unnamed.port, ca }, never), { code: "CONNECT_FAILED" });
  });

  t.test("gives up on a peer that says nothing when the time is over or the caller aborts", async (t) => {
    const silent = createServer(() => undefined);
    await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
    t.teardown(() => silent.close());
    const address = silent.address();
    const port = typeof address === "object" && address ? address.port : 0;
    const clock = new ManualClock();
    const late = connectTls({ host: "127.0.0.1", port, clock, timeoutMs: 5_000 }, never);
    const lateEnd = t.rejects(late, { code: "TIMED_OUT" });
    await clock.advance(5_000);
    await lateEnd;
    const abort = new AbortController();
    const aborted = t.rejects(connectTls({ host: "127.0.0.1", port }, abort.signal), { message: "enough" });
    abort.abort(new Error("enough"));
    await aborted;
    await t.rejects(connectTls({ host: "127.0.0.1", port }, abort.signal), { message: "enough" });
  });

  t.test("counts what goes over the wire, and hears when a counted connection is cut", async (t) => {
    await using server = await listen(good);
    await using proxy = await openCuttingProxy(server.port, () => Infinity);
    const traffic = new Traffic();
    const channel = await connectTls({ host: "a.localhost", port: proxy.port, ca, traffic }, never).catch(
      () => undefined,
    );
    t.equal(channel, undefined, "the certificate is not for that name, but the name is found");
    const counted = await connectTls({ host: "localhost", port: proxy.port, ca, traffic }, never);
    const ended = counted.read(() => undefined);
    const before = traffic.sentBytes;
    await counted.write(Buffer.alloc(1_000));
    t.ok(traffic.sentBytes >= before + 1_000 && traffic.receivedBytes > 500);
    await proxy[Symbol.asyncDispose]();
    await ended.catch(() => undefined);
    t.ok(counted.lost instanceof Error);
  });

  t.test("takes up an earlier session when it has one", async (t) => {
    await using server = await listen(good);
    const sessions = new TlsSessions();
    const options = { host: "localhost", port: server.port, ca, sessions };
    const resumed: boolean[] = [];
    for (let round = 0; round < 2; round += 1) {
      await using channel = await connectTls(options, never);
      const got = readUntil(channel, "x");
      await channel.write("x", never); // tickets come after the handshake
      await got;
      resumed.push(channel.resumed);
    }
    t.same(resumed, [false, true]);
  });

  t.test("keeps a bounded number of sessions", async (t) => {
    const sessions = new TlsSessions(2);
    for (const peer of ["a", "b", "c"]) sessions.keep(peer, Buffer.from(peer));
    t.same([sessions.take("a"), sessions.take("c")], [undefined, Buffer.from("c")]);
  });
});

t.test("TlsChannel", async (t) => {
  const authority = await makeAuthority();
  const { caPem: ca } = authority;
  const identity = await authority.leaf(["127.0.0.1"]);

  t.test("reads nothing while the handler's promise is pending", async (t) => {
    await using server = await listen(identity, async (channel) => {
      await channel.write("one");
      await channel.read((chunk) => channel.write(`two after ${chunk.toString()}`));
    });
    await using channel = await connectTls({ host: "127.0.0.1", port: server.port, ca }, never);
    const chunks: string[] = [];
    let release = (): void => undefined;
    const first = new Promise<void>((resolve) => {
      const ended = channel.read((chunk) => {
        chunks.push(chunk.toString());
        resolve();
        return chunks.length === 1 ? new Promise<void>((done) => (release = done)) : undefined;
      });
      ended.catch(() => undefined);
    });
    await first;
    await channel.write("go", never);
    await new Promise((resolve) => setTimeout(resolve, 30));
    t.same(chunks, ["one"], "held back");
    release();
    while (chunks.length < 2) await new Promise((resolve) => setImmediate(resolve));
    t.same(chunks, ["one", "two after go"]);
  });

  t.test("closes when the handler throws, and rejects writes from then on", async (t) => {
    await using server = await listen(identity, async (channel) => {
      await channel.write("boom");
      await channel.read(() => undefined);
    });
    await using channel = await connectTls({ host: "127.0.0.1", port: server.port, ca }, never);
    const read = channel.read(() => {
      throw new Error("boom");
    });
    await t.rejects(read, { message: "boom" });
    t.ok(channel.closed);
    await t.rejects(channel.write("x", never), { code: "CONNECTION_LOST" });
  });

  t.test("sends its last words before it ends", async (t) => {
    await using server = await listen(identity, async (channel) => {
      channel.end("bye");
      await channel.read(() => undefined);
    });
    await using channel = await connectTls({ host: "127.0.0.1", port: server.port, ca }, never);
    let got = "";
    await channel.read((chunk) => void (got += chunk.toString()));
    t.equal(got, "bye");
  });
});

t.test("Directory", async (t) => {
  const find = async (
    answer: string | undefined,
    { cuts = [], clock = new ManualClock() }: { cuts?: readonly number[]; clock?: ManualClock } = {},
  ): Promise<{ address: Promise<unknown>; asked: () => string | undefined; done: () => Promise<void> }> => {
    let asked: string | undefined;
    const server = await openScripted(async (peer) => {
      await peer.send("@");
      asked = await peer.line();
      if (answer !== undefined) await peer.send(answer, cuts);
      await peer.line();
    });
    const connect: Connect = (to, signal) => connectTls({ ...to, ca: server.caPem }, signal);
    const directory = new Directory({
      address: { kind: "directory", host: "127.0.0.1", port: server.port },
      connect,
      clock,
      answerTimeoutMs: 1_000,
    });
    return {
      address: directory.find(alice, never),
      asked: () => asked,
      done: () => server[Symbol.asyncDispose](),
    };
  };

  t.test("asks for the bare name and reads the answer however it is cut", async (t) => {
    const answer = "host.example:6464\r\n@";
    for (const cuts of [[], [1], [4, 5, 6], [17], [18], [19], Array.from(answer, (_, at) => at)]) {
      const { address, asked, done } = await find(answer, { cuts });
      t.same(await address, { host: "host.example", port: 6464 }, `cut at ${cuts.join()}`);
      t.equal(asked(), "alice");
      await done();
    }
  });

  t.test("says that an atSign is unknown, and what else can be wrong", async (t) => {
    const cases = [
      ["null\r\n@", "ATSIGN_UNKNOWN"],
      ["nonsense\r\n@", "CONNECT_FAILED"],
      ["host.example:99999\r\n@", "CONNECT_FAILED"],
    ] as const;
    for (const [answer, code] of cases) {
      const { address, done } = await find(answer);
      await t.rejects(address, { code }, answer);
      await done();
    }
    const clock = new ManualClock();
    const silent = await find(undefined, { clock });
    const late = t.rejects(silent.address, { code: "TIMED_OUT" });
    while (silent.asked() === undefined) await new Promise((resolve) => setImmediate(resolve));
    await clock.advance(1_000);
    await late;
    await silent.done();
  });

  t.test("remembers an address for an hour, unless told to forget it", async (t) => {
    await using server = await openScripted(async (peer) => {
      await peer.line();
      await peer.send("host.example:1\r\n@");
      await peer.line();
    });
    const clock = new ManualClock();
    const directory = new Directory({
      address: { kind: "directory", host: "127.0.0.1", port: server.port },
      connect: (to, signal) => connectTls({ ...to, ca: server.caPem }, signal),
      clock,
    });
    await directory.find(alice, never);
    await directory.find(alice, never);
    t.equal(server.connections, 1);
    directory.forget(alice);
    await directory.find(alice, never);
    t.equal(server.connections, 2);
    await clock.advance(3_600_001);
    await directory.find(alice, never);
    t.equal(server.connections, 3);
    t.same(server.failures, []);
  });

  t.test("is not asked when there is a proxy", async (t) => {
    const directory = new Directory({
      address: parseDirectoryAddress("proxy:gate.example:443"),
      connect: () => Promise.reject(new Error("must not connect")),
    });
    t.match(await directory.find(alice, never), { host: "gate.example", port: 443 });
  });
});

t.test("addresses", async (t) => {
  t.same(parseDirectoryAddress("root.atsign.org"), { kind: "directory", host: "root.atsign.org", port: 64 });
  t.same(parseDirectoryAddress("proxy:gate"), { kind: "proxy", host: "gate", port: 64 });
  for (const text of ["a.example:1", "127.0.0.1:65535", "[::1]:64"]) t.equal(formatHostPort(parseHostPort(text)), text);
  for (const bad of ["", ":1", "a", "a:0", "a:65536", "a:1x", "a b:1", "::1:64", "@a:1", "a/b:1"]) {
    t.throws(() => parseHostPort(bad), { code: "SYNTAX_INVALID" }, JSON.stringify(bad));
  }
});
