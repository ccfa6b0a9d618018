import { type ChildProcessByStdio, spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import Database from "better-sqlite3";
import t from "tap";
import { openAtClient } from "../../atplatform/client/at-client.js";
import { onboard } from "../../atplatform/client/onboard.js";
import { formatAtKeys } from "../../atplatform/crypto/at-keys.js";
import { keyPairOf, parsePrivateKey } from "../../atplatform/crypto/rsa.js";
import { fromBase64 } from "../../core/bytes.js";
import { testKeys } from "../fixtures/vectors.js";
import { openPlatform } from "../../atplatform/server/platform.js";
import { systemClock } from "../../core/clock.js";
import { silentLog } from "../../core/log.js";
import { Scope } from "../../core/scope.js";
import { Secret } from "../../core/secret.js";
import { fingerprintOf } from "../../messages/pins.js";
import { parseAddress, receiptKey, telemetryKey } from "../../messages/names.js";
import { PeerTrust } from "../../messages/peer-trust.js";
import { parseReceipt } from "../../messages/receipt.js";
import { formatTelemetry } from "../../messages/telemetry.js";
import { platformOf } from "../../remote/at-client-platform.js";
import { openIncoming } from "../../remote/inbound.js";
import { Outbound } from "../../remote/outbound.js";
import { bundleCli } from "../fixtures/bundled-cli.js";
import { runTestDevice } from "../fixtures/message-device.js";

const address = parseAddress("north", "atedge");
const life = { stream: "0123456789abcdef0123456789abcdef", inc: 1 };
const forever = new AbortController().signal;

type Child = ChildProcessByStdio<null, Readable, Readable>;

async function outcome(
  child: Child,
): Promise<{ readonly code: number | null; readonly out: string; readonly err: string }> {
  const code = new Promise<number | null>((resolve) => child.once("close", resolve));
  const [out, err] = await Promise.all([text(child.stdout), text(child.stderr)]);
  return { code: await code, out, err };
}

/** What a command has printed, as soon as that is enough. */
async function printed(child: Child, isEnough: (seen: string) => boolean): Promise<string> {
  let seen = "";
  for await (const chunk of child.stdout.iterator({ destroyOnReturn: false })) {
    seen += String(chunk);
    if (isEnough(seen)) return seen;
  }
  throw new Error(`it ended after: ${seen}`);
}

const lines =
  (count: number) =>
  (seen: string): boolean =>
    seen.split("\n").length > count;

t.test("the commands, against an atDirectory and two atServers", async (t) => {
  const dir = await mkdtemp(join(tmpdir(), "atedge-remote-platform-"));
  const scope = new Scope();
  t.teardown(async () => {
    await scope[Symbol.asyncDispose]();
    await rm(dir, { recursive: true, force: true });
  });
  const cli = scope.use(await bundleCli());
  const run = (args: readonly string[]): Child => {
    const env = { ...process.env, NODE_OPTIONS: "" }; // tap's loaders are of no use to a bundle
    return spawn(process.execPath, [cli.path, ...args], { stdio: ["ignore", "pipe", "pipe"], env });
  };
  const platform = scope.use(await openPlatform({ stateDir: join(dir, "platform") }, forever));
  const directory = { kind: "directory", host: "localhost", port: platform.directoryPort } as const;
  const ca = platform.caPem;
  // With keys that are there already: making RSA keys takes most of an onboarding.
  const member = async (name: string, { pkam, encryption, selfEncryptionKey }: (typeof testKeys)["bob"]) => {
    const { atSign, cramSecret } = await platform.add(name);
    const pairOf = ({ privateKey }: { readonly privateKey: string }) => keyPairOf(parsePrivateKey(privateKey));
    const selfKey = new Secret<Uint8Array>(fromBase64(selfEncryptionKey));
    const made = { pkam: pairOf(pkam), encryption: pairOf(encryption), selfKey };
    const keyFile = join(dir, `${name}.atKeys`);
    await writeFile(keyFile, formatAtKeys(atSign, made).reveal(), { mode: 0o600 });
    const keys = await onboard({ atSign, secret: new Secret(cramSecret), directory, ca, keyFile }, forever);
    return { atSign, keys };
  };
  const owner = await member("@greenhouse", testKeys.alice);
  await member("@grower", testKeys.bob);
  const client = scope.use(await openAtClient({ ...owner, directory, ca }, forever));
  const device = platformOf(client, owner.keys, address);
  const outbound = new Outbound(device, "@grower", address);
  const pins = new Map<string, string>();
  const remembered = {
    get: (peer: string) => pins.get(peer),
    set: (peer: string, fingerprint: string) => Promise.resolve(void pins.set(peer, fingerprint)),
  };
  const trust = new PeerTrust({
    ...{ us: "@greenhouse", address, records: device, remembered, log: silentLog },
    configured: new Map(),
  });
  const send = async (seq: number): Promise<void> => {
    const readings = [{ name: "temperature", unit: "Cel", value: 20 + seq, timeMs: Date.now() }];
    const body = formatTelemetry({ type: "pack", ...life, class: "measurement", seq, readings });
    await outbound.send({ name: telemetryKey(address), body, ttlnMs: 60_000 }, forever);
  };
  const common = [
    ...["--as", "@grower", "--keys", join(dir, "@grower.atKeys"), "--ca", platform.caFile ?? ""],
    ...["--directory", `localhost:${platform.directoryPort}`, "--state", join(dir, "state")],
  ];
  const fingerprint = fingerprintOf(owner.keys.encryption.publicText);

  t.test("watch prints readings with their age, and ends cleanly at Ctrl-C", async (t) => {
    const child = run(["watch", "@greenhouse/north", ...common, "--json"]);
    const ended = new Promise<number | null>((resolve) => child.once("close", resolve));
    const errors = text(child.stderr);
    // Until it listens, live notifications pass it by.
    let seq = 0;
    const sending = setInterval(() => void send((seq += 1)), 500);
    const line = await printed(child, lines(1)).finally(() => clearInterval(sending));
    const reading = JSON.parse(line.split("\n")[0] ?? "") as { readonly ageMs: number };
    t.match(reading, { type: "reading", name: "temperature", unit: "Cel", class: "measurement", ...life });
    t.ok(reading.ageMs >= 0 && reading.ageMs < 10_000, `${reading.ageMs} ms old`);
    child.kill("SIGINT");
    t.equal(await ended, 0);
    t.match(await errors, /first use/u, "the key that it trusts is told");
  });

  t.test("watch --keep stores what its atServer has kept for it, and the device can read the receipt", async (t) => {
    const file = join(dir, "keep.db");
    const child = run([
      "watch",
      "@greenhouse/north",
      ...common,
      "--keep",
      file,
      "--key",
      fingerprint,
      "--consumer",
      "test",
    ]);
    const ended = new Promise<number | null>((resolve) => child.once("close", resolve));
    await printed(child, lines(1));
    const regex = receiptKey(address).replaceAll(".", "\\.");
    for await (const incoming of device.notifications({ regex, since: 0 }, forever)) {
      const receipt = parseReceipt(await openIncoming(incoming, { trust, clock: systemClock }, forever));
      t.match(receipt, { consumer: "test", ...life, missing: [] });
      t.ok(receipt.have >= 1);
      break;
    }
    child.kill("SIGTERM");
    t.equal(await ended, 0);
    const db = new Database(file, { readonly: true });
    t.match(db.prepare("SELECT * FROM readings ORDER BY seq").all()[0], {
      name: "temperature",
      value: 21,
      unit: "Cel",
    });
    db.close();
  });

  t.test("watch --keep has every reading once, however often it is killed", async (t) => {
    const file = join(dir, "killed.db");
    const keep = ["watch", "@greenhouse/north", ...common, "--keep", file, "--consumer", "test", "--json"];
    const rest = { ...life, inc: 2 };
    const sendAgain = async (seq: number): Promise<void> => {
      const readings = [{ name: "count", value: seq, timeMs: Date.now() }];
      const body = formatTelemetry({ type: "pack", ...rest, class: "event", seq, readings });
      await outbound.send({ name: telemetryKey(address), body, ttlnMs: 60_000 }, forever);
    };
    const perRound = 20;
    let seq = 0;
    for (const linesBeforeKill of [1, 7, 15]) {
      const child = run(keep);
      const gone = new Promise((resolve) => child.once("close", resolve));
      for (let sent = 0; sent < perRound; sent += 1) await sendAgain((seq += 1));
      await printed(child, lines(linesBeforeKill));
      child.kill("SIGKILL");
      await gone;
    }
    const child = run(keep);
    const ended = new Promise<number | null>((resolve) => child.once("close", resolve));
    const count = seq + 1;
    await sendAgain(count);
    await printed(child, (seen) => seen.includes(`"seq":${count}`));
    child.kill("SIGTERM");
    t.equal(await ended, 0);
    const regex = receiptKey(address).replaceAll(".", "\\.");
    for await (const incoming of device.notifications({ regex, since: 0 }, forever)) {
      const receipt = parseReceipt(await openIncoming(incoming, { trust, clock: systemClock }, forever));
      // The farewell; without it this would never end.
      if (receipt.inc === 2 && receipt.have === count && receipt.missing.length === 0) break;
    }
    const db = new Database(file, { readonly: true });
    const values = db.prepare("SELECT value FROM readings WHERE name = 'count' ORDER BY value").pluck().all();
    db.close();
    t.strictSame(
      values,
      Array.from({ length: count }, (_, index) => index + 1),
    );
  });

  t.test("watch stops when the owner's key is not the pinned one", async (t) => {
    const wrong = `sha256:${"0".repeat(64)}`;
    const { code, err } = await outcome(run(["watch", "@greenhouse/north", ...common, "--key", wrong]));
    t.equal(code, 1);
    t.match(err, /the encryption key of @greenhouse has changed/u);
  });

  t.test("call prints the result, or the device's reason with exit code 1", async (t) => {
    const controller = new AbortController();
    const answers = ({ command, id, args }: { command: string; id: string; args: unknown }) =>
      command === "open"
        ? ([
            { type: "ack", payload: {} },
            { type: "success", payload: { id, result: { did: args } } },
          ] as const)
        : ([{ type: "nack", payload: { id, reason: "not-allowed" }, message: "nobody may" }] as const);
    const running = runTestDevice(
      { platform: device, trust, address, caller: "@grower", answers, clock: systemClock },
      controller.signal,
    );
    const good = await outcome(run(["call", "@greenhouse/north", "vent", "open", '{"percent":40}', ...common]));
    t.strictSame({ code: good.code, out: good.out }, { code: 0, out: '{"did":{"percent":40}}\n' });
    const bad = await outcome(run(["call", "@greenhouse/north", "vent", "shut", ...common, "--json", "--id", "c-7"]));
    t.equal(bad.code, 1);
    t.strictSame(JSON.parse(bad.out), { kind: "refused", reason: "not-allowed", message: "nobody may", id: "c-7" });
    controller.abort();
    await running;
  });

  t.test("call says when the device is offline, and how to ask again", async (t) => {
    const args = ["call", "@greenhouse/north", "vent", "open", ...common, "--ack-timeout", "1", "--id", "c-8"];
    const { code, err } = await outcome(run(args));
    t.equal(code, 1);
    t.match(err, /offline: .*--id c-8 asks again/u);
  });

  t.test("wrong arguments end with exit code 2 and say what is wrong", async (t) => {
    const wrong = await outcome(run(["call", "@greenhouse/north", "vent", "open", "[1]", ...common]));
    t.equal(wrong.code, 2);
    t.match(wrong.err, /Expected a JSON object/u);
    const subject = await outcome(run(["watch", "greenhouse", ...common]));
    t.equal(subject.code, 1);
    t.match(subject.err, /expected @owner\/device/u);
  });
});
