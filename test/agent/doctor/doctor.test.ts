import { chmod, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import t from "tap";
import { diagnose } from "../../../agent/doctor/diagnosis.js";
import { type DoctorOptions, doctorReport } from "../../../agent/doctor/doctor.js";
import type { Finding } from "../../../agent/doctor/finding.js";
import type { RunningAgent } from "../../../agent/doctor/running-agent.js";
import { AgentNotRunning } from "../../../agent/local-client.js";
import { LocalControl } from "../../../agent/local-control.js";
import { enroll } from "../../../atplatform/client/enroll.js";
import { formatAtKeys } from "../../../atplatform/crypto/at-keys.js";
import { readAtKeysFile } from "../../../atplatform/crypto/at-keys-file.js";
import { privateKeyText } from "../../../atplatform/crypto/rsa.js";
import { parseAtSign } from "../../../atplatform/protocol/at-sign.js";
import { systemClock } from "../../../core/clock.js";
import { silentLog } from "../../../core/log.js";
import { Scope } from "../../../core/scope.js";
import { fingerprintOf } from "../../../messages/pins.js";
import { TestPlatform } from "../../fixtures/at-platform.js";
import { AtedgeProcess } from "../../fixtures/atedge-process.js";
import { bundleCli } from "../../fixtures/bundled-cli.js";
import { openAedes } from "../../fixtures/mqtt-brokers.js";
import { PtyDevice } from "../../fixtures/pty-device.js";

const forever = new AbortController().signal;
const greenhouse = parseAtSign("@greenhouse");

t.test("the doctor", { timeout: 200_000 }, async (t) => {
  const scope = new Scope();
  t.teardown(() => scope[Symbol.asyncDispose]());
  const folder = t.testdir({ platform: {}, state: {} });
  const file = (name: string): string => join(folder, name);
  const platform = scope.use(await TestPlatform.open(file("platform")));
  await platform.onboard("@greenhouse");
  const grower = await platform.onboard("@grower");
  const owner = scope.use(await platform.client("@greenhouse"));
  const { caFile = "", caPem } = platform.platform;
  await chmod(file("state"), 0o700);
  const enrolled = async (deviceName: string): Promise<string> => {
    const keyFile = file(`${deviceName}.atKeys`);
    await enroll(
      {
        ...{ atSign: greenhouse, directory: platform.directory, ca: caPem, pollMs: 50 },
        ...{ appName: "atedge", deviceName, namespaces: { [`${deviceName}.atedge`]: "rw" }, keyFile },
        passcode: await owner.enrollments.newPasscode({}, forever),
        onPending: ({ enrollmentId: id, fingerprint }) =>
          void owner.enrollments.approve({ id }, { fingerprint }, forever),
      },
      forever,
    );
    return keyFile;
  };
  await enrolled("north");
  const directory = `localhost:${platform.directory.port}`;
  const base = {
    atsign: "@greenhouse",
    device: "north",
    directory,
    ca: caFile,
    keys: "north.atKeys",
    stateDir: "state",
  };
  const pin = fingerprintOf(grower.encryption.publicText);
  const READER = `[[reader]]\natsign = "@grower"\nkey = "${pin}"\n`;
  /** A file with this configuration; `undefined` leaves a key out. */
  async function configured(changes: Readonly<Record<string, unknown>> = {}, tables = READER): Promise<string> {
    const entries = Object.entries<unknown>({ ...base, ...changes }).filter(([, value]) => value !== undefined);
    const lines = entries.map(([key, value]) => `${key} = ${JSON.stringify(value)}`);
    await writeFile(file("atedge.toml"), `${lines.join("\n")}\n${tables}`);
    return file("atedge.toml");
  }
  const well: RunningAgent = {
    health: () => Promise.resolve({ state: "ok", parts: [{ name: "store", state: "ok", sinceMs: 0 }] }),
    aside: () => Promise.resolve([]),
  };
  async function examined(
    changes: Readonly<Record<string, unknown>> = {},
    tables = READER,
    options: Partial<DoctorOptions> = {},
  ): Promise<{ readonly state: string; readonly of: (check: string) => Finding[] }> {
    const configFile = await configured(changes, tables);
    const { state, findings } = await doctorReport({ configFile, agent: well, ...options }, forever);
    return { state, of: (check) => findings.filter((finding) => finding.check === check) };
  }
  const wrong = (...texts: RegExp[]) => texts.map((text) => ({ state: "bad", text }));

  await t.test("finds nothing wrong where all is well", async (t) => {
    const { state, of } = await examined();
    t.equal(state, "ok");
    for (const check of [
      "config",
      "user",
      "policy",
      "keys",
      "disk",
      "agent",
      "ca",
      "dns",
      "directory",
      "atServer",
      "tls",
    ])
      t.match(of(check)[0], { state: "ok" }, check);
    t.match(of("login"), [{ state: "ok" }]);
    t.match(of("enrolment"), [{ state: "ok", text: /atedge on north, north\.atedge:rw/u }]);
    t.match(of("clock"), [{ state: "ok" }, { state: "ok", text: "agrees with the atServer's" }]);
    t.match(of("peers"), [{ state: "ok", text: /@grower is there with the pinned key/u }]);
    t.same(
      await owner.scan({ regex: "doctor\\." }, forever),
      ["doctor.north.atedge@greenhouse"],
      "it expires by itself",
    );
  });

  await t.test("tells every fault of a configuration, and what then cannot be looked at", async (t) => {
    const { state, of } = await examined({ device: "North", logLevel: "loud" });
    t.equal(state, "bad");
    t.match(of("config"), wrong(/device: expected/u, /logLevel: expected/u));
    t.match(of("drivers"), [{ state: "skipped" }]);
    const none = await doctorReport({ configFile: file("none.toml"), agent: well }, forever);
    t.match(none.findings[0], { state: "bad", text: /there is no .*config example/u });
  });

  await t.test("tells what is wrong with keys", async (t) => {
    t.match((await examined({ keys: "none.atKeys" })).of("keys"), wrong(/no key file .*atedge enroll/u));
    t.match((await examined({ keys: "none.atKeys" })).of("login"), [{ state: "skipped", text: /no keys/u }]);
    await chmod(file("north.atKeys"), 0o640);
    t.match((await examined()).of("keys"), wrong(/mode 0640.*chmod 600/u));
    await chmod(file("north.atKeys"), 0o600);
    t.match((await examined({ device: "south" })).of("enrolment"), wrong(/not for south\.atedge/u));
    const owners = await examined({ keys: platform.keyFile("@greenhouse") });
    t.match(owners.of("enrolment"), wrong(/more than a board should/u));
    t.match(owners.of("keys"), [{ state: "ok" }], "only the atServer can tell");
    const others = await examined({ keys: platform.keyFile("@grower") });
    t.match(others.of("login"), wrong(/does not take these keys|does not know it/u));
    const keys = await enrolled("west");
    const [west] = (await owner.enrollments.list({}, forever)).filter(({ deviceName }) => deviceName === "west");
    await owner.enrollments.revoke(west?.id ?? "", {}, forever);
    t.match((await examined({ device: "west", keys })).of("login"), [
      { state: "bad", text: /was revoked/u, todo: /unrevoke --as @greenhouse/u },
    ]);
  });

  await t.test("tells where on the way to the atServer it ends", async (t) => {
    t.match(
      (await examined({ directory: "no-such-host.invalid:64" })).of("dns"),
      wrong(/no-such-host\.invalid is not found/u),
    );
    const free = await new Promise<number>((resolve) => {
      const server = createServer().listen(0, "127.0.0.1", () => {
        const address = server.address();
        server.close(() => resolve(typeof address === "object" && address ? address.port : 0));
      });
    });
    const closed = await examined({ directory: `localhost:${free}` });
    t.match(closed.of("directory"), [{ state: "bad", text: /no connection/u, todo: /nc -vz localhost/u }]);
    t.match(closed.of("login"), [{ state: "skipped" }]);
    const untrusting = await examined({ ca: undefined });
    t.match(untrusting.of("directory"), [{ state: "bad", text: /certificate/u, todo: /ca = "FILE"/u }]);
    t.match((await examined({ ca: "none.pem" })).of("ca"), wrong(/none\.pem cannot be read \(ENOENT\)/u));
    await writeFile(file("no.pem"), "hello");
    t.match((await examined({ ca: "no.pem" })).of("ca"), wrong(/is no certificate/u));
    t.match((await examined({ atsign: "@grenhouse" })).of("atServer"), wrong(/does not know @grenhouse/u));
  });

  await t.test("compares the clock with the atServer's, and finds one that began in the past", async (t) => {
    const hourAhead = {
      ...systemClock,
      now: () => systemClock.now() + 3_600_000,
      sleep: systemClock.sleep.bind(systemClock),
    };
    const clock = { ...hourAhead, monotonicMs: () => systemClock.monotonicMs() };
    t.match((await examined({}, READER, { clock })).of("clock")[1], {
      state: "bad",
      text: /is 3[56]\d\d\.\d s ahead/u,
    });
    const little = { ...clock, now: () => systemClock.now() - 20_000 };
    t.match((await examined({}, READER, { clock: little })).of("clock")[1], {
      state: "warn",
      text: /is (?:19|20)\.\d s behind/u,
    });
    const past = { ...clock, now: () => Date.UTC(1970, 0, 1) };
    t.match((await examined({}, READER, { clock: past })).of("clock")[0], {
      state: "bad",
      text: /1970-01-01/u,
      todo: /timedatectl/u,
    });
  });

  await t.test("tells of readers that are not there or show another key", async (t) => {
    const strangers = `[[reader]]\natsign = "@nobody"\n[[allow]]\natsign = "@grower"\nkey = "sha256:${"0".repeat(64)}"\ncommands = ["*/*"]\n`;
    const { of } = await examined({}, strangers);
    t.match(of("peers"), [
      { state: "bad", text: /no atServer of @nobody/u },
      {
        state: "bad",
        text: new RegExp(`@grower shows the key ${pin}, not the pinned one`, "u"),
        todo: /not by the atPlatform/u,
      },
    ]);
    t.match(of("policy")[1], { state: "warn", text: /@nobody are not pinned/u });
    t.match((await examined({}, "")).of("config"), [{ state: "ok" }, { state: "warn", text: /nobody reads/u }]);
  });

  await t.test("tells when there is no room, or the state folder takes nothing", async (t) => {
    const full = `${READER}[outbox]\nminFreeBytes = 1099511627776\n`;
    t.match((await examined({}, full)).of("disk"), [{ state: "bad", text: /oldest readings go already/u }]);
    t.match((await examined({ stateDir: "none" })).of("disk"), [
      { state: "warn", text: /makes it at its first start/u },
    ]);
    t.match((await examined({ stateDir: "no/state" })).of("disk"), wrong(/nor the folder above/u));
    await mkdir(file("shared"));
    await chmod(file("shared"), 0o777);
    t.match((await examined({ stateDir: "shared" })).of("disk")[0], { state: "bad", text: /others may write/u });
    const kernel = await examined({ stateDir: "/proc/sys" });
    t.match(kernel.of("disk")[0], { state: "bad", text: /\/proc\/sys/u });
  });

  await t.test("looks at ports, brokers and programs of drivers", async (t) => {
    await using aedes = await openAedes({
      authenticate: (_, user, password, done) => done(null, user === "north" && String(password) === "s3cret-of-mqtt"),
    });
    await using device = await PtyDevice.open();
    await writeFile(file("mqtt.password"), "s3cret-of-mqtt\n", { mode: 0o600 });
    await writeFile(file("wrong.password"), "wrong\n", { mode: 0o644 });
    const driver = (id: string, type: string, keys: object): string =>
      `[[driver]]\nid = "${id}"\ntype = "${type}"\n${Object.entries(keys)
        .map(([key, value]) => `${key} = ${JSON.stringify(value)}\n`)
        .join("")}`;
    const mqtt = { url: aedes.url, username: "north" };
    const tables = [
      driver("board", "serial", { path: device.path }),
      driver("gone", "serial", { path: "/dev/serial/by-id/none" }),
      driver("plain", "serial", { path: file("mqtt.password") }),
      driver("stick", "serial", { usb: "1209:beef" }),
      driver("bench", "mqtt", { ...mqtt, passwordFile: "mqtt.password" }),
      driver("stranger", "mqtt", { ...mqtt, passwordFile: "wrong.password" }),
      driver("away", "mqtt", { url: "mqtt://127.0.0.1:1" }),
      driver("meter", "modbus", { host: "127.0.0.1", port: 1 }),
      driver("script", "exec", { program: "none.sh", folder: folder }),
    ].join("");
    const { of } = await examined({}, READER + tables, { offline: true });
    t.match(of("driver board"), [{ state: "ok" }]);
    t.match(of("driver gone"), [{ state: "bad", text: /there is no/u, todo: /plugged in/u }]);
    t.match(of("driver plain"), wrong(/is no port/u));
    t.match(of("driver stick"), wrong(/no USB adapter is 1209:beef/u));
    t.match(of("driver bench"), [{ state: "ok", text: /lets us in/u }]);
    t.match(of("driver stranger"), [
      { state: "warn", text: /everybody can read .*wrong\.password/u },
      { state: "bad", text: /refuses us.*passwordFile/u },
    ]);
    t.match(of("driver away"), wrong(/cannot be reached/u));
    t.match(of("driver meter"), wrong(/127\.0\.0\.1:1 does not answer \(ECONNREFUSED\)/u));
    t.match(of("driver script"), wrong(/none\.sh cannot be looked at/u));

    const aedesPort = Number(new URL(aedes.url).port);
    const nobody: RunningAgent = { ...well, health: () => Promise.reject(new AgentNotRunning("none")) };
    const taken = await examined({ metricsPort: aedesPort }, READER, { offline: true, agent: nobody });
    t.match(taken.of("metrics"), wrong(/in use by another program/u));
    t.match(taken.of("agent"), [{ state: "skipped" }]);
  });

  await t.test("asks the running agent, and lists what was set aside with what to do", async (t) => {
    const cli = scope.use(await bundleCli());
    const control = scope.use(await LocalControl.open(file("state"), silentLog));
    const decided: string[] = [];
    const why = "AT0005-Buffer limit exceeded";
    const entries = [{ id: 7, atMs: Date.UTC(2026, 10, 1), reader: "@grower", class: "measurement", why, bytes: 900 }];
    const link = { name: "link", state: "degraded", sinceMs: Date.UTC(2026, 10, 2), code: "CONNECT_FAILED" };
    control.add("health", () => ({ state: "degraded", parts: [link, { name: "store", state: "ok", sinceMs: 0 }] }));
    control.add("aside.list", () => ({ aside: entries.length, forgotten: 0, entries }));
    control.add("aside.retry", (args) => void decided.push(`retry ${args.at("id").integer(1, 99)}`));
    control.add("aside.drop", (args) => void decided.push(`drop ${args.at("id").integer(1, 99)}`));
    const config = await configured();
    const atedge = (...args: string[]) => scope.use(new AtedgeProcess(cli.path, [...args, "--config", config])).ended;
    const ended = await atedge("doctor");
    t.equal(ended.code, 1);
    t.match(ended.out, /^warn {2}agent .*link is degraded since 2026-11-02.*CONNECT_FAILED/mu);
    t.match(
      ended.out,
      /^BAD {3}set aside .*7: measurement for @grower, 900 bytes.*AT0005.*\n *→ `atedge doctor retry 7`.*drop 7`/mu,
    );
    t.match(ended.out, /1 thing is wrong$/mu);
    t.match(await atedge("doctor", "aside", "--json"), { code: 0, out: /^\{"id":7,/u });
    t.match(await atedge("doctor", "retry", "7"), { code: 0, out: "7 will be sent once more" });
    t.match(await atedge("doctor", "drop", "7", "--json"), { code: 0, out: /\{"id":7,"drop":true\}/u });
    t.same(decided, ["retry 7", "drop 7"]);
    t.match(await atedge("doctor", "drop", "seven"), { code: 2, err: /expected a number/u });
    entries.pop();
    t.match(await atedge("doctor", "--json", "--offline"), { code: 0, out: /"check":"agent","state":"warn"/u });

    const out = file("bundle.json");
    t.match(await atedge("diag", "--offline", "--out", out), { code: 0, out: /look at it/u });
    t.match(JSON.parse(await readFile(out, "utf8")), { v: 1, agent: { health: { state: "degraded" } } });
    t.match(await atedge("diag", "--offline", "--out", out), { code: 1, err: /EEXIST/u }, "nothing is overwritten");
    await control[Symbol.asyncDispose]();
  });

  await t.test("gives a bundle without any secret, whatever was logged, and no longer than it may be", async (t) => {
    await writeFile(file("passphrase"), "correct horse battery\n", { mode: 0o600 });
    await writeFile(file("mqtt.password"), "s3cret-of-mqtt\n", { mode: 0o600 });
    await writeFile(file("state/outbox.db"), "a reading of it", { mode: 0o600 });
    const keys = await readAtKeysFile(file("north.atKeys"));
    const secrets = [
      "correct horse battery",
      "s3cret-of-mqtt",
      Buffer.from(keys.selfKey.reveal()).toString("base64"),
      Buffer.from(keys.apkamSymmetricKey?.reveal() ?? "").toString("base64"),
      privateKeyText(keys.pkam.privateKey),
      privateKeyText(keys.encryption.privateKey),
      (JSON.parse(formatAtKeys("@greenhouse", keys).reveal()) as Record<string, string>)["aesPkamPrivateKey"] ?? "",
      String(keys.pkam.privateKey.export({ type: "pkcs8", format: "pem" })),
      "argument-s3cret",
      "login-s3cret",
    ];
    const tables = `${READER}[[driver]]\nid = "bench"\ntype = "mqtt"\nurl = "mqtt://127.0.0.1:1"\nusername = "north"\npasswordFile = "mqtt.password"\n[[driver]]\nid = "script"\ntype = "exec"\nprogram = "x.sh"\nargs = ["--token", "argument-s3cret"]\n`;
    const configFile = await configured({ keysPassphraseFile: "passphrase" }, tables);
    const log = () =>
      Promise.resolve([
        { msg: "a line with all of it", every: secrets.slice(0, 8), url: "https://user:login-s3cret@proxy:3128/" },
        ...secrets.slice(0, 8).map((secret) => `in the middle: x${secret}y`),
        `fingerprint ${pin}`,
        ...Array.from({ length: 500 }, (_, index) => `line ${index} ${"x y ".repeat(50)}`),
      ]);
    const options = { configFile, version: "0.0.0", agent: well, offline: true, log };
    const diagnosis = await diagnose(options, forever);
    const text = JSON.stringify(diagnosis);
    for (const secret of secrets) t.notOk(text.includes(secret), secret.slice(0, 12));
    for (const line of secrets
      .flatMap((secret) => secret.split("\n"))
      .filter((line) => line.length > 30 && !/-----/u.test(line)))
      t.notOk(text.includes(line), "no line of a PEM key either");
    t.match(diagnosis, {
      v: 1,
      versions: { atedge: "0.0.0", node: process.version },
      config: { atsign: "@greenhouse", keysPassphraseFile: file("passphrase"), reader: [{ key: pin }] },
      doctor: { state: "bad" },
    });
    t.match(text, pin, "what everybody may know stays");
    t.match(diagnosis.files, [{ name: "outbox.db", bytes: 15, mode: "600" }]);
    t.notMatch(text, "a reading of it", "of files there is no more than that");

    const whole = JSON.stringify(diagnosis).length;
    for (const maxBytes of [whole - 10_000, 20_000, 8_000, 2_000]) {
      const small = await diagnose({ ...options, maxBytes }, forever);
      t.ok(JSON.stringify(small).length <= maxBytes, `at most ${maxBytes}`);
      if (maxBytes > 20_000) t.equal(small.log.at(-1), diagnosis.log.at(-1), "the newest lines stay");
    }
    await rm(file("atedge.toml"));
    t.match(await diagnose(options, forever), { config: { faults: [/there is no/u] } }, "also without a configuration");
  });
});
