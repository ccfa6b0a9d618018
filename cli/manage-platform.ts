import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { codeOf, EdgeError } from "../core/errors.js";
import { makeFolder } from "../core/make-folder.js";
import { bareAtSign, parseAtSign, type AtSign } from "../atplatform/protocol/at-sign.js";
import { AlreadyHosted, makeCramSecret, PlatformStore } from "../atplatform/server/platform-store.js";
import { platformRuns } from "../atplatform/server/folder-lock.js";

interface StateOptions {
  readonly state: string;
  readonly json?: boolean;
}

interface AddOptions extends StateOptions {
  readonly cramSecretFile?: string;
  readonly host?: string;
  readonly port?: number;
}

/** How long a running platform may take to notice. */
const NOTICE_MS = 10_000;

export async function addAtSign(text: string, options: AddOptions): Promise<void> {
  const { state, json, cramSecretFile, host, port } = options;
  const atSign = parseAtSign(text);
  await makeFolder(join(state, "atsigns"));
  const { secret, isNew } = await secretFrom(cramSecretFile);
  const store = new PlatformStore(state);
  try {
    if (store.find(atSign)) throw new AlreadyHosted(`${atSign} is hosted here already`);
    // First the file: a secret that could not be written would be lost.
    if (cramSecretFile !== undefined && isNew)
      await writeFile(cramSecretFile, `${secret}\n`, { mode: 0o600, flag: "wx" });
    await store.add(atSign, { cramSecret: secret, host, port });
    const entry = platformRuns(state) ? await untilListening(store, atSign) : undefined;
    const shown = cramSecretFile === undefined ? { cramSecret: secret } : { cramSecretFile };
    if (json) return print({ atSign, ...(entry && { host: entry.host, port: entry.port }), ...shown });
    const where = entry ? `listens at ${entry.host}:${entry.port}` : "will listen when the platform starts";
    process.stdout.write(`${atSign} is added and ${where}\n`);
    if (cramSecretFile === undefined) {
      process.stdout.write(`CRAM secret, shown this once, for: atedge onboard ${atSign} --cram-file -\n${secret}\n`);
    } else {
      process.stdout.write(
        `The CRAM secret is in ${cramSecretFile}: atedge onboard ${atSign} --cram-file ${cramSecretFile}\n`,
      );
    }
  } finally {
    store.close();
  }
}

export async function removeAtSign(text: string, { state, json }: StateOptions): Promise<void> {
  const atSign = parseAtSign(text);
  const store = new PlatformStore(state);
  try {
    if (!store.markRemoved(atSign)) throw new EdgeError(`${atSign} is not hosted here`);
    if (platformRuns(state)) await until(() => store.find(atSign) === undefined, `${atSign} is still being stopped`);
    else await store.forget(atSign);
    if (json) print({ atSign, removed: true });
    else process.stdout.write(`${atSign} is removed; its file stays in ${join(state, "atsigns")} under another name\n`);
  } finally {
    store.close();
  }
}

export function listAtSigns({ state, json }: StateOptions): void {
  const store = new PlatformStore(state);
  try {
    const running = platformRuns(state);
    const atSigns = store.list().map(({ atSign, port }) => {
      const entry = store.directory.find(bareAtSign(atSign));
      return { atSign, host: entry?.host ?? null, port: entry?.port ?? port, listening: running };
    });
    if (json) return print(atSigns);
    if (atSigns.length === 0) process.stdout.write("no atSign is hosted here\n");
    for (const { atSign, host, port } of atSigns) {
      process.stdout.write(
        `${atSign}\t${host === null ? "not started yet" : `${host}:${port}`}${running ? "" : "\t(not running)"}\n`,
      );
    }
  } finally {
    store.close();
  }
}

const print = (value: unknown): void => void process.stdout.write(`${JSON.stringify(value)}\n`);

/** The first line of the file if there is one; `@alice:<secret>`, as the registrar gives it, too. */
async function secretFrom(file: string | undefined): Promise<{ secret: string; isNew: boolean }> {
  if (file === undefined) return { secret: makeCramSecret(), isNew: true };
  try {
    const line = (await readFile(file, "utf8")).split("\n")[0]?.trim() ?? "";
    const secret = line.slice(line.lastIndexOf(":") + 1);
    if (secret === "") throw new EdgeError(`${file} holds no CRAM secret`);
    return { secret, isNew: false };
  } catch (error) {
    if (codeOf(error) === "ENOENT") return { secret: makeCramSecret(), isNew: true };
    throw error;
  }
}

async function untilListening(store: PlatformStore, atSign: AtSign): Promise<{ host: string; port: number }> {
  const found = (): { host: string; port: number } | undefined => store.directory.find(bareAtSign(atSign));
  await until(() => found() !== undefined, `the running platform has not started ${atSign}; see its log`);
  return found() ?? { host: "", port: 0 };
}

async function until(done: () => boolean, failure: string): Promise<void> {
  const endMs = performance.now() + NOTICE_MS;
  while (!done()) {
    if (performance.now() > endMs) throw new EdgeError(failure);
    await delay(50);
  }
}
