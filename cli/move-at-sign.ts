import { join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { bareAtSign, parseAtSign, type AtSign } from "../atplatform/protocol/at-sign.js";
import { PlatformStore } from "../atplatform/server/platform-store.js";
import { platformRuns } from "../atplatform/server/folder-lock.js";
import { exportFile } from "../atplatform/server/transfer.js";
import { formatHostPort, parseHostPort, type HostPort } from "../atplatform/transport/host-port.js";
import { EdgeError } from "../core/errors.js";
import { makeFolder } from "../core/make-folder.js";

interface StateOptions {
  readonly state: string;
  readonly json?: boolean;
}

/** How long a running platform may take to notice. */
const NOTICE_MS = 10_000;

const say = (json: boolean | undefined, value: object, text: string): void =>
  void process.stdout.write(`${json ? JSON.stringify(value) : text}\n`);

/** `atedge platform export`: through the running platform if there is one, which has the file locked. */
export async function exportAtSign(
  text: string,
  file: string,
  { state, json, move = false }: StateOptions & { readonly move?: boolean },
): Promise<void> {
  const atSign = parseAtSign(text);
  const path = resolve(file);
  const store = new PlatformStore(state);
  try {
    if (!store.find(atSign)) throw new EdgeError(`${atSign} is not hosted here`);
    if (platformRuns(state)) {
      store.requestTransfer({ atSign, path, move });
      let outcome: string | undefined;
      while ((outcome = store.transferOutcome(atSign)) === undefined) {
        if (!platformRuns(state)) throw new EdgeError("the platform has ended meanwhile; try again");
        await delay(50);
      }
      if (outcome !== "") throw new EdgeError(outcome);
    } else {
      await exportFile(store.fileOf(atSign), atSign, path);
      if (move) await store.forget(atSign);
    }
    const next = move
      ? `it is no longer served here. Import the file where it is to live, then here:\n  atedge platform point ${atSign} HOST:PORT`
      : "keep it safe: whoever has it can act as the server of the atSign";
    say(json, { atSign, file: path, moved: move }, `${atSign} is in ${path}; ${next}`);
  } finally {
    store.close();
  }
}

/** `atedge platform import`: a running platform begins to serve it by itself. */
export async function importAtSign(
  file: string,
  { state, json, host, port }: StateOptions & { readonly host?: string; readonly port?: number },
): Promise<void> {
  await makeFolder(join(state, "atsigns"));
  const store = new PlatformStore(state);
  try {
    const options = { ...(host !== undefined && { host }), ...(port !== undefined && { port }) };
    const atSign = await store.import(resolve(file), options);
    const address = platformRuns(state) ? await untilListening(store, atSign) : undefined;
    const where = address ? `listens at ${formatHostPort(address)}` : "will listen when the platform starts";
    say(json, { atSign, ...address }, `${atSign} is imported and ${where}`);
  } finally {
    store.close();
  }
}

/** `atedge platform point`: an entry of the directory for an atSign that is hosted elsewhere. */
export function pointAtSign(text: string, address: string, { state, json }: StateOptions): void {
  const atSign = parseAtSign(text);
  const { host, port } = parseHostPort(address);
  const store = new PlatformStore(state);
  try {
    store.point(atSign, { host, port });
    say(json, { atSign, host, port }, `the directory says that ${atSign} is at ${formatHostPort({ host, port })}`);
  } finally {
    store.close();
  }
}

async function untilListening(store: PlatformStore, atSign: AtSign): Promise<HostPort> {
  const endMs = performance.now() + NOTICE_MS;
  for (;;) {
    const entry = store.directory.find(bareAtSign(atSign));
    if (entry && entry.port === store.find(atSign)?.port) return { host: entry.host, port: entry.port };
    if (performance.now() > endMs) throw new EdgeError(`the running platform has not started ${atSign}; see its log`);
    await delay(50);
  }
}
