import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Children } from "./children.js";

/** One machine with everything on it: a platform, two atSigns, and a configured device. All files are in one folder. */
export interface Site {
  readonly folder: string;
  readonly directory: string;
  readonly ca: string;
  readonly config: string;
  /** What `watch` and `call` need to act as the reader. */
  readonly asReader: readonly string[];
}

export const DEVICE = "north";
export const OWNER = "@greenhouse";
export const READER = "@grower";

export interface SiteOptions {
  readonly folder: string;
  readonly children: Children;
  readonly boardPath: string;
  readonly brokerUrl: string;
  /** The sensors number their readings, and the board gets an `ack n` for each that is safe. */
  readonly numbered?: boolean;
  readonly onStep?: (text: string) => void;
}

interface PlatformReady {
  readonly directoryPort: number;
}

/** Starts the platform, activates both atSigns, enrols the board and writes the agent's configuration. */
export async function setUpSite(options: SiteOptions): Promise<Site> {
  const { folder, children, onStep = () => {} } = options;
  const state = join(folder, "platform");
  const { directoryPort } = await startPlatform(children, state);
  const directory = `127.0.0.1:${directoryPort}`;
  const ca = join(state, "ca.pem");
  const reach = ["--directory", directory, "--ca", ca];
  const keysOf = (atSign: string): string => join(folder, "keys", `${atSign}_key.atKeys`);

  for (const atSign of [OWNER, READER]) {
    const secret = join(folder, `${atSign}.cram`);
    const add = ["platform", "add", atSign, "--state", state, "--cram-secret-file", secret];
    await children.run("platform-add", "atedge.js", add);
    const onboard = ["onboard", atSign, "--cram-file", secret, "--keys", keysOf(atSign), ...reach];
    await children.run("onboard", "atedge.js", onboard);
    onStep(`${atSign} is activated on its owner's machine: keys made there, ${keysOf(atSign)}`);
  }
  const boardKeys = join(folder, "board-keys", `${OWNER}_key.atKeys`);
  await enrollBoard({ ...options, onStep }, { reach, ownerKeys: keysOf(OWNER), boardKeys });
  const config = join(folder, "atedge.toml");
  await writeFile(config, agentToml({ ...options, directory, ca, keys: boardKeys }));
  const asReader = ["--as", READER, "--keys", keysOf(READER), ...reach, "--state", join(folder, "reader")];
  return { folder, directory, ca, config, asReader };
}

interface Enrolling {
  readonly reach: readonly string[];
  readonly ownerKeys: string;
  readonly boardKeys: string;
}

/** As on two machines: the owner gives a passcode, the board asks with it, the owner approves what the board shows. */
async function enrollBoard(
  { folder, children, onStep }: SiteOptions & { readonly onStep: (text: string) => void },
  { reach, ownerKeys, boardKeys }: Enrolling,
): Promise<void> {
  const asOwner = ["--as", OWNER, "--keys", ownerKeys, ...reach];
  const passcode = await children.run("otp", "atedge.js", ["otp", ...asOwner]);
  const passcodeFile = join(folder, "passcode");
  await writeFile(passcodeFile, passcode, { mode: 0o600 });
  onStep("owner$ atedge otp: a passcode for one board, for five minutes");
  const enroll = ["enroll", OWNER, "--device", DEVICE, "--passcode-file", passcodeFile, "--keys", boardKeys];
  let approved: Promise<string> | undefined;
  await children
    .run("enroll", "atedge.js", [...enroll, ...reach, "--poll", "250ms", "--wait", "30s", "--json"], (line) => {
      const event = parseObject(line);
      if (event?.["type"] !== "pending") return;
      const fingerprint = String(event["fingerprint"]);
      onStep(`board$ atedge enroll ${OWNER} --device ${DEVICE}: keys made here; shows ${fingerprint}`);
      approved = children.run("approve", "atedge.js", ["approve", ...asOwner, "--fingerprint", fingerprint]);
      // Its failure is told below; without the approval the board waits in vain.
      approved.then(
        () => onStep(`owner$ atedge approve --fingerprint ${fingerprint.slice(0, 15)}…: what the board shows`),
        () => {},
      );
    })
    .catch(async (error: unknown) => {
      await approved;
      throw error;
    });
  await approved;
  onStep(`The board has its keys, for ${DEVICE}.atedge:rw and nothing else: ${boardKeys}`);
}

/** @param directoryPort the port of before, to come back where clients look. */
export function startPlatform(children: Children, state: string, directoryPort = 0): Promise<PlatformReady> {
  const args = [
    "platform",
    "--state",
    state,
    "--host",
    "127.0.0.1",
    "--directory-port",
    String(directoryPort),
    "--json",
  ];
  return children.startUntil("platform", { program: "atedge.js", args }, parsePlatformReady);
}

function parsePlatformReady(line: string): PlatformReady | undefined {
  const ready = parseObject(line);
  return typeof ready?.["directoryPort"] === "number" ? { directoryPort: ready["directoryPort"] } : undefined;
}

/** A JSON object, or `undefined` for a line that is something else. */
export function parseObject(line: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

/** Resident memory of a process in megabytes, or `undefined` when it is gone. */
export async function residentMb(pid: number): Promise<number | undefined> {
  const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
  const kb = /^VmRSS:\s+(\d+) kB$/mu.exec(status)?.[1];
  return kb === undefined ? undefined : Number(kb) / 1024;
}

interface TomlOptions extends SiteOptions {
  readonly directory: string;
  readonly ca: string;
  readonly keys: string;
}

const agentToml = ({ folder, boardPath, brokerUrl, numbered, directory, ca, keys }: TomlOptions): string => `
atsign    = "${OWNER}"
device    = "${DEVICE}"
directory = "${directory}"
ca        = "${ca}"
keys      = "${keys}"
stateDir  = "${join(folder, "agent")}"

[[reader]]
atsign   = "${READER}"

[[allow]]
atsign   = "${READER}"
commands = ["board/*", "bench/lamp"]

[[driver]]
id         = "host"
type       = "host"
intervalMs = 1000

[[driver]]
id    = "board"
type  = "serial"
path  = "${boardPath}"
${numbered ? 'ack   = "ack {n}"' : ""}
[[driver.reading]]
pointer = "/t"
name    = "board/temperature"
unit    = "Cel"
[[driver.reading]]
pointer = "/relay"
name    = "board/relay"
${numbered ? numberedReading("board/n") : ""}
[[driver.command]]
name       = "relay"
idempotent = true
answerPointer = "/relay"
[driver.command.args.on]
type = "boolean"

[[driver]]
id   = "bench"
type = "mqtt"
url  = "${brokerUrl}"
[[driver.reading]]
topic   = "bench/+/illuminance"
pointer = "/value"
name    = "bench/illuminance.{1}"
unit    = "lx"
[[driver.reading]]
topic   = "bench/+/lamp"
pointer = "/state"
name    = "bench/lamp.{1}"
${numbered ? `[[driver.reading]]\ntopic = "bench/+/illuminance"\npointer = "/n"\nname = "bench/n"\n` : ""}
[[driver.command]]
name          = "lamp"
idempotent    = true
topic         = "bench/1/lamp/set"
answerTopic   = "bench/1/lamp"
answerPointer = "/state"
[driver.command.args.state]
type = "string"
enum = ["ON", "OFF"]
`;

const numberedReading = (name: string): string => `[[driver.reading]]\npointer = "/n"\nname = "${name}"\n`;
