import { createCipheriv, randomBytes } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { openAtClient } from "../../atplatform/client/at-client.js";
import { readAtKeysFile } from "../../atplatform/crypto/at-keys-file.js";
import { parseAtSign } from "../../atplatform/protocol/at-sign.js";
import { DEVICE, OWNER, READER, type Site } from "../../demo/site.js";
import { base64Texts, findClearText, type Finding, openedWithKeysInSight } from "../fixtures/clear-text-search.js";
import type { RecordingProxy } from "../fixtures/recording-proxy.js";
import { proxyAtServers, Whole } from "../fixtures/whole.js";

/** What only the two ends may see: names of readings, and the words of commands (a record'''s `expiresAt` is no number). */
const READINGS = ["board/temperature", "bench/illuminance", "memory.available"];
const COMMANDS = ['"target":"board"', '"command":"relay"', '"args":{"on":true}', '"expiresAt":1'];
const NEEDLES = [...READINGS, ...COMMANDS];

t.test("no clear text is at the atServers, in their logs or on the wire", { timeout: 110_000 }, async (t) => {
  const proxies: RecordingProxy[] = [];
  t.teardown(async () => {
    for (const proxy of proxies) await proxy[Symbol.asyncDispose]();
  });
  await using whole = await Whole.start({
    rateHz: 10,
    beforeAgent: async (site) => void proxies.push(...(await proxyAtServers(site))),
  });
  for (const name of ["board/temperature", "bench/illuminance.1", "memory.available"]) {
    for (let tries = 0; !whole.seen.some((reading) => reading.name === name) && tries < 300; tries++) await pause();
    t.ok(
      whole.seen.some((reading) => reading.name === name),
      `the watcher sees ${name}`,
    );
  }
  t.match(await whole.call("board", "relay", '{"on":true}'), /true/u, "the command is carried out");

  const files = await filesOf(join(whole.folder, "platform"));
  const log = await readFile(join(whole.folder, "platform.log"));
  const wire = Buffer.concat(proxies.map((proxy) => proxy.bytes));
  t.ok(wire.includes(`telemetry.${DEVICE}.atedge`), "the proxies saw the telemetry pass");
  t.ok(wire.includes(`.cmd.__rpcs.${DEVICE}.atedge`), "and the command");
  t.ok(
    files.some(({ bytes }) => bytes.includes(`telemetry.${DEVICE}.atedge`)),
    "and it is in the databases",
  );
  t.same(search([...files, { name: "platform.log", bytes: log }, { name: "wire", bytes: wire }]), []);

  await t.test("the same search finds it where encryption is off", async (t) => {
    await sendInClear(whole.site);
    await pause(1000);
    const control = [
      ...(await filesOf(join(whole.folder, "platform"))),
      { name: "wire", bytes: Buffer.concat(proxies.map((proxy) => proxy.bytes)) },
    ];
    const found = search(control);
    for (const [form, where] of [
      ["plain", /wire/u],
      ["plain", /grower\.db/u],
      ["base64", /wire/u],
      ["hex", /wire/u],
      ["plain", /opened with keys/u],
    ] as const) {
      t.ok(
        found.some((finding) => finding.form.startsWith(form) && where.test(finding.where)),
        `${form} in ${String(where)}`,
      );
    }
  });
});

interface Source {
  readonly name: string;
  readonly bytes: Buffer;
}

/** As it stands, and decrypted with every key that the sources hold. */
function search(sources: readonly Source[]): Finding[] {
  const texts = [...new Set(sources.flatMap(({ bytes }) => base64Texts(bytes)))];
  const opened = openedWithKeysInSight(texts).map((bytes) => ({ name: "opened with keys in sight", bytes }));
  return [...sources, ...opened].flatMap(({ name, bytes }) => findClearText(bytes, NEEDLES, name));
}

async function filesOf(folder: string): Promise<Source[]> {
  const names = await readdir(folder, { recursive: true });
  const databases = names.filter((name) => /\.db(-wal)?$/u.test(name));
  return Promise.all(databases.map(async (name) => ({ name, bytes: await readFile(join(folder, name)) })));
}

/** What a device without encryption would send, in the forms that the search must know. */
async function sendInClear(site: Site): Promise<void> {
  const [host = "", port] = site.directory.split(":");
  await using client = await openAtClient(
    {
      atSign: parseAtSign(OWNER),
      keys: await readAtKeysFile(join(site.folder, "keys", `${OWNER}_key.atKeys`)),
      directory: { kind: "directory", host, port: Number(port) },
      ca: await readFile(site.ca, "utf8"),
    },
    signal,
  );
  const text = JSON.stringify({
    senml: READINGS.map((n) => ({ n, v: 1 })),
    target: "board",
    command: "relay",
    args: { on: true },
    expiresAt: 1,
  });
  const key = randomBytes(32);
  const iv = randomBytes(16);
  const cipher = createCipheriv("aes-256-ctr", key, iv);
  const padded = Buffer.from(text.padEnd(Math.ceil(text.length / 16) * 16, " "));
  const underAKeyInSight = [
    key.toString("base64"),
    iv.toString("base64"),
    cipher.update(padded).toString("base64"),
  ].join(" ");
  const values = [
    text,
    Buffer.from(`?${text}`).toString("base64"),
    Buffer.from(text).toString("hex"),
    underAKeyInSight,
  ];
  for (const value of values) {
    const to = parseAtSign(READER);
    await client.notify({ to, key: `control.${DEVICE}.atedge`, value, encrypt: false, ttlnMs: 60_000 }, signal);
  }
}

const signal = AbortSignal.timeout(100_000);
const pause = (ms = 100): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
