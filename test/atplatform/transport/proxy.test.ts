import { createHash, X509Certificate } from "node:crypto";
import { once } from "node:events";
import { createServer, type AddressInfo, type Socket } from "node:net";
import t from "tap";
import { connectTls, TlsSessions } from "../../../atplatform/transport/connect.js";
import { listenTls } from "../../../atplatform/transport/listen.js";
import { openTunnel, parseHttpProxy, proxyFromEnvironment } from "../../../atplatform/transport/proxy.js";
import { parseDirectoryAddress } from "../../../atplatform/transport/directory.js";
import { formatHostPort } from "../../../atplatform/transport/host-port.js";
import { TestPlatform } from "../../fixtures/at-platform.js";
import { openTinyproxy } from "../../fixtures/http-proxy.js";
import { makeAuthority } from "../../fixtures/test-tls.js";

const never = new AbortController().signal;

t.test("an HTTP proxy", async (t) => {
  await using platform = await TestPlatform.open(t.testdir());
  await platform.onboard("@alice");
  await platform.onboard("@bob");

  await t.test("carries a whole client: look-up, login, records, notifications and their monitor", async (t) => {
    await using tinyproxy = await openTinyproxy();
    const proxy = parseHttpProxy(`http://127.0.0.1:${tinyproxy.port}`);
    await using alice = await platform.client("@alice", { proxy });
    await using bob = await platform.client("@bob", { proxy });
    const stop = new AbortController();
    const received = (async () => {
      for await (const notification of bob.subscribe({ regex: "tunnel", since: "stored" }, stop.signal)) {
        return (await notification.decrypt(stop.signal)).text;
      }
      return undefined;
    })();
    await alice.put({ key: "tunnel.demo" }, "kept", {}, never);
    t.equal((await alice.get({ key: "tunnel.demo" }, {}, never))?.value, "kept");
    await alice.notify({ to: bob.atSign, key: "tunnel.demo", value: "through it", ttlnMs: 60_000 }, never);
    t.equal(await received, "through it");
    stop.abort();
    const directory = formatHostPort(platform.directory);
    const connects = await tinyproxy.connects();
    t.equal(connects.filter((target) => target === directory).length, 2);
    t.equal(connects.filter((target) => target !== directory).length, 2);
  });

  await t.test("is told who we are when it asks, and its refusal says what it said", async (t) => {
    await using tinyproxy = await openTinyproxy({ login: "north:s3cret" });
    const at = `127.0.0.1:${tinyproxy.port}`;
    await using alice = await platform.client("@alice", { proxy: parseHttpProxy(`http://north:s3cret@${at}`) });
    t.ok((await alice.scan({}, never)).some((name) => name.includes("publickey@alice")));
    await using stranger = await platform.client("@alice", { proxy: parseHttpProxy(`http://north:wr0ng@${at}`) });
    const error = await stranger.scan({}, never).catch((error: unknown) => error as Error & { code: string });
    t.match(error, {
      code: "PROXY_REFUSED",
      message: /the proxy 127\.0\.0\.1:\d+ does not connect to localhost:\d+: 40/u,
    });
    t.notMatch(JSON.stringify(error) + String((error as Error).stack), /wr0ng/u);
  });

  await t.test("named as the root (`proxy:host:port`) takes the place of every atServer", async (t) => {
    const { port } = platform.platform.store.directory.find("alice") ?? { port: 0 };
    const directory = parseDirectoryAddress(`proxy:localhost:${port}`);
    await using alice = await platform.client("@alice", { directory });
    t.equal(typeof (await alice.put({ key: "via.demo" }, "root", {}, never)), "number");
  });
});

t.test("openTunnel", async (t) => {
  const answering = async (answer: (socket: Socket) => void): Promise<{ port: number; close: () => void }> => {
    const sockets = new Set<Socket>();
    const server = createServer((socket) => {
      sockets.add(socket);
      socket.on("error", () => undefined).once("data", () => answer(socket));
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    const close = (): void => {
      server.close();
      sockets.forEach((socket) => socket.destroy());
    };
    return { port: (server.address() as AddressInfo).port, close };
  };
  const to = { host: "atserver.example", port: 6464 };

  await t.test("has a typed error for whatever the proxy answers", async (t) => {
    const cases: readonly (readonly [string, RegExp])[] = [
      ["HTTP/1.1 403 Forbidden\r\n\r\n", /: 403 Forbidden$/u],
      ["HTTP/1.1 407\r\nX: y\r\n\r\n", /: 407$/u],
      ["SSH-2.0-OpenSSH\r\n\r\n", /something that is not HTTP$/u],
      ["HTTP/1.1 200 OK\r\n" + "X: y\r\n".repeat(4000), /with no end$/u],
      ["", /closed the connection$/u],
    ];
    for (const [text, message] of cases) {
      const proxy = await answering((socket) => socket.end(text));
      await t.rejects(openTunnel({ host: "127.0.0.1", port: proxy.port, secure: false }, to, never), {
        code: "PROXY_REFUSED",
        message,
      });
      proxy.close();
    }
    const gone = await answering(() => undefined);
    gone.close();
    await t.rejects(openTunnel({ host: "127.0.0.1", port: gone.port, secure: false }, to, never), {
      code: "CONNECT_FAILED",
    });
  });

  await t.test("keeps what comes with the answer, however the answer is cut", async (t) => {
    const text = "HTTP/1.1 200 Connection established\r\nVia: 1.1 x\r\n\r\nhello";
    for (let cut = 0; cut <= text.length; cut += 7) {
      const proxy = await answering((socket) => {
        socket.setNoDelay(true).write(text.slice(0, cut) || " ".slice(1));
        setImmediate(() => socket.end(text.slice(cut)));
      });
      const socket = await openTunnel({ host: "127.0.0.1", port: proxy.port, secure: false }, to, never);
      let got = "";
      for await (const chunk of socket) got += String(chunk);
      t.equal(got, "hello");
      proxy.close();
    }
  });

  await t.test("ends when the caller aborts", async (t) => {
    const proxy = await answering(() => undefined);
    const stop = new AbortController();
    const opening = openTunnel({ host: "127.0.0.1", port: proxy.port, secure: false }, to, stop.signal);
    stop.abort(new Error("enough"));
    await t.rejects(opening, { message: "enough" });
    proxy.close();
  });
});

t.test("the choice of a proxy", async (t) => {
  await t.test("is read from an address, and a wrong one shows no password", async (t) => {
    t.match(parseHttpProxy("proxy.example:3128"), { host: "proxy.example", port: 3128, secure: false });
    t.match(parseHttpProxy("https://[::1]"), { host: "::1", port: 443, secure: true });
    const withLogin = parseHttpProxy("http://a%40b:p%3Aw@proxy.example");
    t.match(withLogin, { host: "proxy.example", port: 80 });
    t.equal(withLogin.credentials?.reveal(), "a@b:p:w");
    t.notMatch(JSON.stringify(withLogin), /p:w/u);
    for (const text of ["socks5://proxy.example", "http://user:s3cret@", "http://user:s3cret@host:99999"]) {
      const error = t.throws(() => parseHttpProxy(text), { code: "SYNTAX_INVALID" });
      t.notMatch(String(error), /s3cret/u);
    }
  });

  await t.test("follows HTTPS_PROXY but for what NO_PROXY names, and never leaves this machine", async (t) => {
    const through = (host: string, noProxy: string, port = 64): boolean =>
      proxyFromEnvironment({ host, port }, { HTTPS_PROXY: "http://p:1", NO_PROXY: noProxy }) !== undefined;
    t.equal(through("root.atsign.org", ""), true);
    t.equal(through("root.atsign.org", "other.org, atsign.org"), false);
    t.equal(through("root.atsign.org", ".atsign.org"), false);
    t.equal(through("root.atsign.org", "*.atsign.org"), false);
    t.equal(through("notatsign.org", "atsign.org"), true);
    t.equal(through("root.atsign.org", "atsign.org:65"), true);
    t.equal(through("root.atsign.org", "ATSIGN.org:64"), false);
    t.equal(through("10.1.2.3", "10.1.2.3"), false);
    t.equal(through("10.1.2.3", "2.3"), true);
    t.equal(through("fd00::1", "[fd00::1]:64"), false);
    t.equal(through("root.atsign.org", "*"), false);
    for (const host of ["localhost", "a.localhost", "127.0.0.53", "::1"]) t.equal(through(host, ""), false);
    t.equal(proxyFromEnvironment({ host: "a.example", port: 1 }, {}), undefined);
    t.match(proxyFromEnvironment({ host: "a.example", port: 1 }, { https_proxy: "q:2", HTTPS_PROXY: "p:1" }), {
      host: "q",
    });
  });
});

t.test("pins of TLS keys", async (t) => {
  const authority = await makeAuthority();
  const identity = await authority.leaf(["localhost"]);
  const onFailure = (error: unknown): void => void t.fail(String(error));
  await using server = await listenTls(
    { host: "127.0.0.1", port: 0, identity, onFailure },
    (channel) => channel.read((chunk) => void channel.write(chunk)),
    never,
  );
  const to = { host: "localhost", port: server.port, ca: authority.caPem };
  const pinOf = (pem: string): string => {
    const der = new X509Certificate(pem).publicKey.export({ type: "spki", format: "der" });
    return `sha256:${createHash("sha256").update(der).digest("hex")}`;
  };
  const stranger = `sha256:${"0".repeat(64)}`;

  await t.test("let through a server whose own key or whose root's key is pinned, and no other", async (t) => {
    for (const pem of [identity.cert, authority.caPem]) {
      await using channel = await connectTls({ ...to, pins: [stranger, pinOf(pem)] }, never);
      t.equal(channel.closed, false);
    }
    const sessions = new TlsSessions();
    const refused = { ...to, sessions, pins: [stranger] };
    await t.rejects(connectTls(refused, never), { code: "CERTIFICATE_REFUSED", message: /pinned/u });
    await t.rejects(connectTls(refused, never), { code: "CERTIFICATE_REFUSED" });
  });

  await t.test("hold for a session that is taken up again", async (t) => {
    const sessions = new TlsSessions();
    for (const resumed of [false, true]) {
      await using channel = await connectTls({ ...to, sessions, pins: [pinOf(authority.caPem)] }, never);
      const echoed = new Promise<void>((resolve) => void channel.read(() => resolve()));
      await channel.write("x");
      await echoed; // the ticket comes with the first bytes
      t.equal(channel.resumed, resumed);
    }
  });
});
