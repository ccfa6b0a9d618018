import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, statSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { createServer as createTlsServer } from "node:tls";
import fc from "fast-check";
import t from "tap";
import { parseConfig } from "../../agent/config/parse.js";
import { findBroker } from "../../drivers/discover/brokers.js";
import { discover } from "../../drivers/discover/discover.js";
import { discoveredToml } from "../../drivers/discover/discovered-toml.js";
import { holdersOf, lockHolder } from "../../drivers/discover/port-holders.js";
import { openAedes } from "../fixtures/mqtt-brokers.js";
import { openMosquitto } from "../fixtures/mqtt-mosquitto.js";
import { makeAuthority } from "../fixtures/test-tls.js";

const never = new AbortController().signal;
const host = "127.0.0.1";

async function listening(server: Server): Promise<number> {
  server.listen(0, host);
  await once(server, "listening");
  const address = server.address();
  t.teardown(() => server.close());
  return typeof address === "object" && address ? address.port : 0;
}

void t.test("brokers are found by their answer", async (t) => {
  await t.test("and told apart by whom they let in", async (t) => {
    await using open = await openAedes();
    const port = Number(new URL(open.url).port);
    t.strictSame(await findBroker({ host, port, tls: false }, never), { url: `mqtt://${host}:${port}`, isOpen: true });
    await using closed = await openMosquitto({ lines: () => ["allow_anonymous false"] });
    t.strictSame(await findBroker({ host, port: closed.port, tls: false }, never), {
      url: `mqtt://${host}:${closed.port}`,
      isOpen: false,
    });
  });

  await t.test("behind TLS, with the certificate and what is wrong with it", async (t) => {
    const authority = await makeAuthority("site CA");
    const identity = await authority.leaf(["broker.site"]);
    for (const requestCert of [false, true]) {
      const options = { ...identity, requestCert, rejectUnauthorized: requestCert, ca: authority.caPem };
      const server = createTlsServer(options, (socket) =>
        socket.on("error", () => undefined).once("data", () => socket.write(Buffer.from([0x20, 2, 0, 5]))),
      );
      const port = await listening(server);
      const url = `mqtts://${host}:${port}`;
      const found = await findBroker({ host, port, tls: true }, never);
      if (requestCert) t.strictSame(found, { url, isOpen: false, wantsCertificate: true });
      else
        t.match(found, {
          url,
          isOpen: false,
          certificate: { subject: "broker.site", issuer: "site CA", distrusted: /CERT|SELF_SIGNED|ISSUER/u },
        });
    }
  });

  await t.test("and nothing else is taken for one", async (t) => {
    const answers = ["HTTP/1.1 400 Bad Request\r\n\r\n", "", "\u0020", "\u0020\u0002\u0000\u0009"];
    for (const answer of answers) {
      const server = createServer((socket) =>
        socket.on("error", () => undefined).once("data", () => socket.end(answer)),
      );
      t.equal(await findBroker({ host, port: await listening(server), tls: false }, never), undefined);
    }
    const silent = await listening(createServer((socket) => socket.on("error", () => undefined)));
    for (const tls of [false, true]) {
      t.equal(await findBroker({ host, port: silent, tls, ms: 100 }, never), undefined, "silent");
    }
    t.equal(await findBroker({ host, port: 1, tls: false }, never), undefined, "nobody there");
  });
});

void t.test("who has a port open is seen", async (t) => {
  // Any file is like a port in this; a pty would be open at its other end.
  const path = join(t.testdir({ port: "" }), "port");
  t.equal((await holdersOf([path])).get(path), undefined);
  const fd = openSync(path, "r");
  t.equal((await holdersOf([path])).get(path)?.pid, process.pid);
  closeSync(fd);
  const child = spawn("flock", [path, "sleep", "60"], { stdio: "ignore" });
  t.teardown(() => child.kill());
  let holder = (await holdersOf([path])).get(path);
  for (; !holder; holder = (await holdersOf([path])).get(path)) await new Promise((resolve) => setTimeout(resolve, 10));
  t.match(holder.name, /^(?:flock|sleep)$/u);

  await t.test("by its lock alone, where the open files of others are not shown", async (t) => {
    const proc = t.testdir({ "4711": { comm: "ModemManager\n" } });
    const { dev, ino } = statSync(path);
    const hex = (number: number): string => number.toString(16).padStart(2, "0");
    const file = `${hex((dev >>> 8) & 0xfff)}:${hex(dev & 0xff)}:${ino}`;
    const locks = `1: POSIX  ADVISORY  READ 5 ${file} 0 EOF\n2: FLOCK  ADVISORY  WRITE 4711 ${file} 0 EOF\n`;
    writeFileSync(join(proc, "locks"), locks);
    t.strictSame((await holdersOf([path], proc)).get(path), { pid: 4711, name: "ModemManager" });
    fc.assert(fc.property(fc.string({ unit: "binary" }), (text) => (lockHolder(text, dev, ino), true)));
  });
});

void t.test("what was found is configuration to paste", async (t) => {
  const toml = discoveredToml({
    ports: [
      {
        path: "/dev/ttyACM0",
        byId: ["/dev/serial/by-id/usb-Arduino_Uno_5573-if00"],
        byPath: ["/dev/serial/by-path/platform-usb-0:1.2:1.0"],
        vendorId: "2341",
        productId: "0043",
        serialNumber: "5573",
        manufacturer: "Arduino (www.arduino.cc)",
        product: "Uno",
        driver: "cdc_acm",
        heldBy: { pid: 12, name: "ModemManager" },
      },
      { path: "/dev/ttyUSB0", byId: [], byPath: ["/dev/serial/by-path/x"], product: 'evil\n[[reader]]\natsign = "@m"' },
      { path: "/dev/ttyACM1", byId: [], byPath: [], product: "Uno" },
    ],
    brokers: [
      { url: "mqtt://localhost:1883", isOpen: true },
      { url: "mqtts://localhost:8883", isOpen: false, certificate: { subject: "b", issuer: "c", distrusted: "WHY" } },
    ],
  });
  t.match(
    toml,
    "# Arduino (www.arduino.cc) Uno, USB 2341:0043, serial number 5573, kernel driver cdc_acm, now /dev/ttyACM0",
  );
  t.match(toml, "# in use by ModemManager (pid 12): end that first");
  t.match(toml, '#passwordFile = "/etc/atedge/mqtt-password"');
  const { config } = parseConfig(`atsign = "@a"\ndevice = "b"\n${toml}`, "/");
  t.equal(config.reader.length, 0, "a device cannot write configuration with its name");
  t.match(
    config.driver.map(({ id, type }) => `${id} ${type}`),
    ["uno serial", "evil-reader-atsign-m serial", "uno-2 serial", "mqtt mqtt", "mqtt-2 mqtt"],
  );
  t.match(config.driver, [
    { path: "/dev/serial/by-id/usb-Arduino_Uno_5573-if00" },
    { path: "/dev/serial/by-path/x" },
    { path: "/dev/ttyACM1" },
  ]);
  const found = await discover([`${host}:1`], never);
  parseConfig(`atsign = "@a"\ndevice = "b"\n${discoveredToml(found)}`, "/");
  t.strictSame(found.brokers, []);
});
