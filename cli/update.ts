import type { Command } from "commander";
import type { UpdateOutcome } from "../core/update-request.js";
import { interruption, openRemote, withRemoteOptions, type RemoteOptions } from "./remote-options.js";

interface SignOptions {
  readonly key: string;
  readonly version: string;
  readonly arch: "amd64" | "arm64" | "armhf";
  readonly json?: boolean;
}

interface PushOptions extends RemoteOptions {
  readonly wait?: string;
}

interface LocalOptions {
  readonly state: string;
  readonly json?: boolean;
}

const EXAMPLES = `
Example:
  atedge update keygen --out releases.key           prints the line for /etc/atedge/update.toml of the devices
  atedge update sign atedge_0.2.0_arm64.deb --key releases.key --version 0.2.0 --arch arm64
  atedge update push @greenhouse/north atedge_0.2.0_arm64.deb --as @grower
  sudo atedge update install atedge_0.2.0_arm64.deb  on the device itself`;

const HELPER_FOLDER = "/var/lib/atedge-update";

/** `atedge update`: signed releases of atedge itself, installed by a helper that goes back when they do not work. */
export function register(program: Command): void {
  const update = program
    .command("update")
    .description("bring a device a new version of atedge, which returns to the old one if it does not work")
    .addHelpText("after", EXAMPLES);

  update
    .command("keygen")
    .description("make a key that signs releases")
    .requiredOption("--out <file>", "where the secret goes, mode 0600; its public half is printed")
    .action(async ({ out }: { readonly out: string }) => {
      const { writeFile } = await import("node:fs/promises");
      const { default: nacl } = await import("tweetnacl");
      const { publicKey, secretKey } = nacl.sign.keyPair();
      await writeFile(out, `${Buffer.from(secretKey).toString("base64")}\n`, { mode: 0o600, flag: "wx" });
      const key = Buffer.from(publicKey).toString("base64");
      process.stdout.write(`# for /etc/atedge/update.toml; ${out} is the secret\nkeys = ["${key}"]\n`);
    });

  update
    .command("sign <file>")
    .description("write the signed description of a package or archive beside it, as FILE.release.json")
    .requiredOption("--key <file>", "the signer's secret")
    .requiredOption("--version <version>", "the version in it")
    .requiredOption("--arch <name>", "amd64, arm64 or armhf")
    .option("--json", "print a JSON object")
    .action(sign);

  update
    .command("install <file>")
    .description("on the device, as root: install a signed package, and tell how it went")
    .option("--state <folder>", "the agent's state folder", "/var/lib/atedge")
    .option("--json", "print a JSON object")
    .action(install);

  withRemoteOptions(update.command("push <@owner/device> <file>"))
    .description("send a signed release to a device that allows you agent/update-*")
    .option("--wait <seconds>", "wait so long for how it ends, and fail unless it is installed")
    .action(push);

  withRemoteOptions(update.command("status <@owner/device>"))
    .description("tell what a device runs, and how its last update ended")
    .action(async (subject: string, options: RemoteOptions) => {
      const { updateStatus } = await import("../remote/push-release.js");
      const signal = interruption();
      const { session: opened, log } = await openRemote(subject, options, signal);
      await using session = opened;
      process.stdout.write(`${JSON.stringify(await updateStatus({ session, log }, signal))}\n`);
    });
}

async function sign(file: string, { key, version, arch, json }: SignOptions): Promise<void> {
  const { createHash } = await import("node:crypto");
  const { readFile, writeFile } = await import("node:fs/promises");
  const { fromBase64 } = await import("../core/bytes.js");
  const { SyntaxInvalid } = await import("../core/errors.js");
  const { signRelease } = await import("../deploy/update/release.js");
  const bytes = await readFile(file);
  const secret = fromBase64((await readFile(key, "utf8")).trim());
  if (secret.length !== 64) throw new SyntaxInvalid(`${key} is no key of \`atedge update keygen\``);
  const kind = file.endsWith(".deb") ? "deb" : "tar";
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  const release = { version, kind, arch, sha256, bytes: bytes.length } as const;
  const out = `${file}.release.json`;
  await writeFile(out, `${JSON.stringify(signRelease(release, secret))}\n`);
  process.stdout.write(json ? `${JSON.stringify({ out, ...release })}\n` : `${out}: ${version} for ${arch}, ${kind}\n`);
}

async function readSigned(file: string) {
  const { readFile } = await import("node:fs/promises");
  const { SyntaxInvalid } = await import("../core/errors.js");
  const { parseSignedRelease } = await import("../deploy/update/release.js");
  const path = `${file}.release.json`;
  const text = await readFile(path, "utf8").catch((cause: unknown) => {
    throw new SyntaxInvalid(`${path} cannot be read: \`atedge update sign\` makes it`, { cause });
  });
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new SyntaxInvalid(`${path} is not JSON`, { cause });
  }
  return parseSignedRelease(value);
}

async function install(file: string, { state, json }: LocalOptions): Promise<void> {
  const { copyFile, mkdir, readFile } = await import("node:fs/promises");
  const path = await import("node:path");
  const { EdgeError } = await import("../core/errors.js");
  const { requestUpdate, UPDATE_FOLDER, UPDATE_OUTCOME } = await import("../core/update-request.js");
  const { runCommand } = await import("../deploy/update/commands.js");
  const { Progress } = await import("./progress.js");
  if (process.getuid?.() !== 0) throw new EdgeError("only root may install: sudo atedge update install …");
  const signed = await readSigned(file);
  const folder = path.join(state, UPDATE_FOLDER);
  const name = path.basename(file);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await copyFile(file, path.join(folder, name));
  await requestUpdate(folder, { file: name, ...signed });
  const progress = new Progress();
  progress.start("installing, and waiting until it works");
  try {
    // Starts it, or waits for the one that the request has started.
    await runCommand("systemctl", "start", "atedge-update.service");
  } finally {
    progress.end();
  }
  const text = await readFile(path.join(HELPER_FOLDER, UPDATE_OUTCOME), "utf8");
  const outcome = JSON.parse(text) as UpdateOutcome;
  process.stdout.write(json ? text : told(outcome));
  if (outcome.outcome !== "installed") process.exitCode = 1;
}

const told = ({ outcome, from, to, why }: Readonly<Record<"outcome" | "from" | "to" | "why", string>>): string =>
  `${outcome}: ${from} to ${to}${why === "" ? "" : `: ${why}`}\n`;

async function push(subject: string, file: string, options: PushOptions): Promise<void> {
  const { readFile } = await import("node:fs/promises");
  const { SyntaxInvalid } = await import("../core/errors.js");
  const { endedOf, pushRelease, updateStatus, waitForUpdate } = await import("../remote/push-release.js");
  const { Progress } = await import("./progress.js");
  const { wait } = options;
  if (wait !== undefined && !(Number(wait) > 0)) throw new SyntaxInvalid("--wait: expected seconds");
  const [bytes, signed] = await Promise.all([readFile(file), readSigned(file)]);
  const signal = interruption();
  const { session: opened, log } = await openRemote(subject, options, signal);
  await using session = opened;
  const progress = new Progress();
  const { json = false } = options;
  const before = wait === undefined ? undefined : endedOf(await updateStatus({ session, log }, signal));
  const onSent = (sent: number): void => {
    if (json) process.stdout.write(`${JSON.stringify({ type: "sent", bytes: sent, size: bytes.length })}\n`);
    else if (process.stderr.isTTY) progress.start(`sending, ${Math.floor((100 * sent) / bytes.length)} %`);
  };
  try {
    await pushRelease({ session, log, file: bytes, signed, onSent }, signal);
    if (wait !== undefined) {
      if (!json) progress.start("the device installs it, and waits until it works");
      const ended = await waitForUpdate({ session, log }, before?.atMs, Number(wait) * 1000, signal);
      if (ended.outcome !== "installed") process.exitCode = 1;
      progress.end();
      return void process.stdout.write(json ? `${JSON.stringify({ type: "ended", ...ended })}\n` : told(ended));
    }
  } finally {
    progress.end();
  }
  const handedOver = "the device has it and tries it; `atedge update status` tells how it went";
  process.stdout.write(json ? `${JSON.stringify({ type: "handed-over" })}\n` : `${handedOver}\n`);
}
