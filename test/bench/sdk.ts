/**
 * The SDK's numbers of issue 4, as ratios of one run:
 *
 * - a sequential `notify` with the shared key known, against one TLS echo and one durable SQLite commit (at most 1.7);
 * - encrypting and decrypting 200 bytes, against bare `createCipheriv` and `createDecipheriv` (at least 0.6);
 * - what importing the client adds to the RSS of a bare Node process (at most 6 MB).
 *
 * The servers are processes of their own. What is compared is measured in rounds of fifty in turn, medians are taken.
 */
import Database from "better-sqlite3";
import { build } from "esbuild";
import { spawn } from "node:child_process";
import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { openAtClient } from "../../atplatform/client/at-client.js";
import { decryptAes, encryptAes, newIv } from "../../atplatform/crypto/aes-ctr.js";
import { readAtKeysFile } from "../../atplatform/crypto/at-keys-file.js";
import { parseAtSign } from "../../atplatform/protocol/at-sign.js";
import { TestPlatform } from "../fixtures/at-platform.js";
import { playRole, ServerProcess } from "../fixtures/bench/server-roles.js";
import { BenchWire } from "../fixtures/bench/wire.js";

const never = new AbortController().signal;
const WARM_UP = 20;
const ROUNDS = 60;
const A_ROUND = 50;
const out = (line: string): void => void process.stdout.write(`${line}\n`);

if (process.argv[2] === "serve") await serve(process.argv[3] ?? "");
else if (await playRole(process.argv.slice(2))) await new Promise(() => undefined);
else if (process.argv[2] !== undefined) throw new Error(`unknown argument ${process.argv[2]}`);
else {
  const folder = mkdtempSync(join(tmpdir(), "atedge-bench-sdk-"));
  try {
    await benchNotify(folder);
    benchCrypto();
    await benchImport(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

interface Served {
  readonly ca: string;
  readonly directoryPort: number;
  readonly keyFile: string;
}

/** The platform with two atSigns. When told so, the second atSign's atServer goes away. */
async function serve(folder: string): Promise<void> {
  await using platform = await TestPlatform.open(folder);
  await platform.onboard("@alice");
  await platform.onboard("@bob");
  const served: Served = {
    ca: platform.platform.caPem,
    directoryPort: platform.directory.port,
    keyFile: platform.keyFile("@alice"),
  };
  out(JSON.stringify(served));
  for await (const line of createInterface({ input: process.stdin })) {
    if (line === "away") await platform.platform.remove("@bob");
    out("done");
  }
}

async function benchNotify(folder: string): Promise<void> {
  const program = process.argv[1] ?? "";
  const state = join(folder, "state");
  const child = spawn(process.execPath, [program, "serve", state], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout });
  const [line] = (await once(lines, "line")) as [string];
  const served = JSON.parse(line) as Served;
  await using client = await openAtClient(
    {
      atSign: parseAtSign("@alice"),
      keys: await readAtKeysFile(served.keyFile),
      directory: { kind: "directory", host: "localhost", port: served.directoryPort },
      ca: served.ca,
    },
    never,
  );
  const echoServer = await ServerProcess.start("echo", join(folder, "echo"));
  const echo = await BenchWire.open(echoServer.ready.ports["echo"] ?? 0, echoServer.ready.caPem, false);
  const db = new Database(join(folder, "commit.db"));
  db.pragma("journal_mode = WAL");
  db.pragma("synchronous = FULL");
  db.exec("CREATE TABLE row (id INTEGER PRIMARY KEY, text TEXT)");
  const insert = db.prepare("INSERT INTO row (text) VALUES (?)");
  const value = "x".repeat(200);
  // As long as the command that notify sends; the answer is as long as an id.
  const row = "000045 ".padEnd(900, "y");
  const works = {
    notify: async () => {
      await client.notify({ to: parseAtSign("@bob"), key: "bench.demo", value, ttlnMs: 60_000 }, never);
    },
    echo: async () => {
      await echo.ask(row);
    },
    commit: async () => {
      insert.run(row);
    },
  };
  const measure = async (what: string): Promise<void> => {
    const times = await inTurns(works);
    const ratio = times.notify / (times.echo + times.commit);
    out(`notify    ${us(times.notify)}, TLS echo ${us(times.echo)}, durable commit ${us(times.commit)}, ${what}`);
    out(`notify / (echo + commit)  ${ratio.toFixed(2)} (limit 1.7), ${what}`);
  };
  await measure("while the same process also delivers to the receiver's atServer");
  child.stdin.write("away\n");
  await once(lines, "line");
  await measure("the receiver's atServer away");
  db.close();
  child.stdin.end();
  await Promise.all([once(child, "close"), echoServer.stop()]);
}

function benchCrypto(): void {
  const [key, plain] = [randomBytes(32), randomBytes(200)];
  const iv = randomBytes(16);
  const cipherBytes = encryptAes(plain, key, iv);
  const bare = {
    encrypt: () => {
      const cipher = createCipheriv("aes-256-ctr", key, newIv());
      return Buffer.concat([cipher.update(plain), cipher.final()]);
    },
    decrypt: () => {
      const decipher = createDecipheriv("aes-256-ctr", key, iv);
      return Buffer.concat([decipher.update(cipherBytes), decipher.final()]);
    },
  };
  const ours = { encrypt: () => encryptAes(plain, key, newIv()), decrypt: () => decryptAes(cipherBytes, key, iv) };
  for (const work of ["encrypt", "decrypt"] as const) {
    const rates: [number[], number[]] = [[], []];
    for (let round = 0; round < 21; round += 1) {
      rates[0].push(perSecond(ours[work]));
      rates[1].push(perSecond(bare[work]));
    }
    const [own, other] = [median(rates[0].slice(1)), median(rates[1].slice(1))];
    out(`${work} 200 B  ${Math.round(own / 1000)} k/s, bare ${Math.round(other / 1000)} k/s`);
    out(`${work} / bare  ${(own / other).toFixed(2)} (limit 0.6)`);
  }
}

/** RSS of a process that has imported the SDK, as its package has it, and of one that has imported nothing. */
async function benchImport(folder: string): Promise<void> {
  const sdk = join(folder, "sdk.mjs");
  const entry = join(process.cwd(), "atplatform", "index.ts");
  await build({ entryPoints: [entry], outfile: sdk, bundle: true, platform: "node", target: "node20", format: "esm" });
  const measured: [number[], number[]] = [[], []];
  for (let round = 0; round < 9; round += 1) {
    measured[0].push(await rssOf(`await import(${JSON.stringify(sdk)});`));
    measured[1].push(await rssOf(""));
  }
  const [own, bare] = [median(measured[0]), median(measured[1])];
  out(`RSS with the SDK imported  ${own.toFixed(1)} MB, bare node ${bare.toFixed(1)} MB`);
  out(`import adds  ${(own - bare).toFixed(1)} MB (limit 6)`);
}

async function rssOf(code: string): Promise<number> {
  const env = { ...process.env, NODE_OPTIONS: "" };
  const program = `${code} await new Promise((r) => setTimeout(r, 300)); console.log(process.memoryUsage().rss);`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
    env,
    stdio: ["ignore", "pipe", "inherit"],
  });
  let text = "";
  for await (const chunk of child.stdout) text += String(chunk);
  return Number(text) / 2 ** 20;
}

/** Median milliseconds of each. */
async function inTurns<Name extends string>(
  works: Readonly<Record<Name, () => Promise<void>>>,
): Promise<Readonly<Record<Name, number>>> {
  const names = Object.keys(works) as Name[];
  const times = new Map<Name, number[]>(names.map((name) => [name, []]));
  for (let round = 0; round < WARM_UP + ROUNDS; round += 1) {
    for (const name of names) {
      for (let at = 0; at < A_ROUND; at += 1) {
        const startedAt = performance.now();
        await works[name]();
        if (round >= WARM_UP) times.get(name)?.push(performance.now() - startedAt);
      }
    }
  }
  return Object.fromEntries(names.map((name) => [name, median(times.get(name) ?? [])])) as Record<Name, number>;
}

function perSecond(work: () => unknown): number {
  const startedAt = performance.now();
  for (let n = 0; n < 5_000; n += 1) work();
  return 5_000_000 / (performance.now() - startedAt);
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}

function us(ms: number): string {
  return `${Math.round(ms * 1000)} µs`;
}
