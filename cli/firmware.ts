import type { Command } from "commander";
import { SyntaxInvalid } from "../core/errors.js";
import type { FirmwareStatus } from "../remote/firmware.js";
import { withRemoteOptions, type RemoteOptions } from "./remote-options.js";

interface SignOptions {
  readonly key: string;
  readonly target: string;
  readonly hardware: string;
  readonly version: string;
  readonly minVersion?: string;
  readonly counter: number;
  readonly out?: string;
  readonly json?: boolean;
}

interface PushOptions extends RemoteOptions {
  readonly manifest?: string;
  readonly wait: boolean;
}

const EXAMPLES = `
Example:
  atedge firmware keygen --out signer.key
  atedge firmware sign app.bin --key signer.key --target press --hardware lm3s6965 --version 1.3.0 --counter 4
  atedge firmware push @greenhouse/north press app.bin --as @grower
  atedge firmware seal @greenhouse/north press --as @grower`;

/** `atedge firmware`: images for microcontrollers, signed here, installed and confirmed there. */
export function register(program: Command): void {
  const firmware = program
    .command("firmware")
    .description("sign firmware, and bring it to a microcontroller")
    .addHelpText("after", EXAMPLES);

  firmware
    .command("keygen")
    .description("make a key that signs firmware")
    .requiredOption("--out <file>", "where the secret goes, mode 0600; the public key for the configuration is printed")
    .option("--json", "print a JSON object")
    .action(keygen);

  firmware
    .command("sign <image>")
    .description("write the signed manifest of an image beside it")
    .requiredOption("--key <file>", "the signer's secret")
    .requiredOption("--target <driver>", "the driver's id on the device")
    .requiredOption("--hardware <name>", "what the board calls its hardware")
    .requiredOption("--version <version>", "the version that the firmware tells")
    .option("--min-version <version>", "the board must run this or later")
    .option("--counter <number>", "against roll-back: raised when older images must not come back", Number, 0)
    .option("--out <file>", "the manifest (default: IMAGE.manifest.json)")
    .option("--json", "print a JSON object")
    .action(sign);

  withRemoteOptions(firmware.command("push <@owner/device> <target> <image>"))
    .description("send an image to a device, which installs, probes and confirms it, or goes back")
    .option("--manifest <file>", "its signed manifest (default: IMAGE.manifest.json)")
    .option("--no-wait", "leave when the device has the image")
    .action(push);

  withRemoteOptions(firmware.command("status <@owner/device> <target>"))
    .description("tell how far an update is, or how the last one ended")
    .action(async (subject: string, target: string, options: RemoteOptions) => {
      await using board = await openBoard(subject, target, options);
      print(await board.firmware.status(board.signal), options);
    });

  withRemoteOptions(firmware.command("rollback <@owner/device> <target>"))
    .description("go back to the firmware that ran before the last update, unless it is sealed off")
    .option("--no-wait", "leave when the device has begun")
    .action(async (subject: string, target: string, options: RemoteOptions & { readonly wait: boolean }) => {
      await using board = await openBoard(subject, target, options);
      const begun = await board.firmware.rollback(board.signal);
      const show = stepReporter(options);
      show(begun);
      end(options.wait ? await board.firmware.untilEnd(show, board.signal) : begun, options);
    });

  withRemoteOptions(firmware.command("seal <@owner/device> <target>"))
    .description("never again install anything older than what runs now")
    .action(async (subject: string, target: string, options: RemoteOptions) => {
      await using board = await openBoard(subject, target, options);
      const floor = await board.firmware.seal(board.signal);
      process.stdout.write(
        options.json
          ? `${JSON.stringify({ floor })}\n`
          : `sealed: images with a counter below ${floor} are refused from now on\n`,
      );
    });
}

async function keygen({ out, json }: { readonly out: string; readonly json?: boolean }): Promise<void> {
  const { writeFile } = await import("node:fs/promises");
  const { default: nacl } = await import("tweetnacl");
  const { publicKey, secretKey } = nacl.sign.keyPair();
  await writeFile(out, `${Buffer.from(secretKey).toString("base64")}\n`, { mode: 0o600, flag: "wx" });
  const key = Buffer.from(publicKey).toString("base64");
  process.stdout.write(
    json
      ? `${JSON.stringify({ secret: out, key })}\n`
      : `${out} is the secret; for the configuration: keys = ["${key}"]\n`,
  );
}

async function sign(image: string, options: SignOptions): Promise<void> {
  const { readFile, writeFile } = await import("node:fs/promises");
  const { fromBase64 } = await import("../core/bytes.js");
  const { ArgumentInvalid } = await import("../firmware-bridge/link/link-errors.js");
  const { signManifest } = await import("../firmware-bridge/update/manifest.js");
  const { sha256Of } = await import("../firmware-bridge/update/update-store.js");
  const bytes = await readFile(image);
  const secret = fromBase64((await readFile(options.key, "utf8")).trim());
  if (secret.length !== 64) throw new ArgumentInvalid(`${options.key} is no key of \`atedge firmware keygen\``);
  const { target, hardware, version, minVersion, counter, out = `${image}.manifest.json` } = options;
  const manifest = { target, hardware, version, sha256: sha256Of(bytes), size: bytes.length, counter };
  const signed = signManifest({ ...manifest, ...(minVersion === undefined ? {} : { minVersion }) }, secret);
  await writeFile(out, `${JSON.stringify(signed)}\n`);
  process.stdout.write(
    options.json
      ? `${JSON.stringify({ manifest: out, ...manifest })}\n`
      : `${out}: ${target} ${version}, ${bytes.length} bytes\n`,
  );
}

async function push(subject: string, target: string, image: string, options: PushOptions): Promise<void> {
  const { readFile } = await import("node:fs/promises");
  const { ArgumentInvalid } = await import("../firmware-bridge/link/link-errors.js");
  const { parseSignedManifest } = await import("../firmware-bridge/update/manifest.js");
  const bytes = await readFile(image);
  const manifest = options.manifest ?? `${image}.manifest.json`;
  const text = await readFile(manifest, "utf8").catch((cause: unknown) => {
    throw new ArgumentInvalid(`${manifest} cannot be read: sign the image with \`atedge firmware sign\` first`, {
      cause,
    });
  });
  const signed = parseSignedManifest(parseJson(text, manifest));
  await using board = await openBoard(subject, target, options);
  const onSent = sendReporter(options, bytes.length);
  const onStatus = stepReporter(options);
  try {
    const { wait } = options;
    end(await board.firmware.push({ image: bytes, signed, wait, onSent, onStatus }, board.signal), options);
  } catch (error) {
    if (!board.signal.aborted) throw error;
    process.stderr.write("\natedge: interrupted; the same command goes on from where it was\n");
    process.exitCode = 1;
  }
}

function parseJson(text: string, where: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new SyntaxInvalid(`${where} is not JSON`);
  }
}

async function openBoard(subject: string, target: string, options: RemoteOptions) {
  const { RemoteFirmware } = await import("../remote/firmware.js");
  const { interruption, openRemote } = await import("./remote-options.js");
  const signal = interruption();
  const { session, log } = await openRemote(subject, options, signal);
  return {
    signal,
    firmware: new RemoteFirmware({ session, target, log }),
    [Symbol.asyncDispose]: () => session[Symbol.asyncDispose](),
  };
}

const print = (status: FirmwareStatus, { json }: RemoteOptions): void =>
  void process.stdout.write(`${json ? JSON.stringify(status) : describe(status)}\n`);

/** The last line, and the exit code: 1 when the board does not run what was wanted. */
function end(status: FirmwareStatus, options: RemoteOptions): void {
  if (process.stderr.isTTY) process.stderr.write("\r\u001b[K");
  print(status, options);
  const step = status.update?.step;
  if (step === "reverted" || step === "rejected") process.exitCode = 1;
}

/** A bar on a terminal, a JSON line each for pipes. */
function sendReporter({ json }: RemoteOptions, size: number): (sent: number) => void {
  return (sent) => {
    if (json) process.stdout.write(`${JSON.stringify({ type: "sent", bytes: sent, size })}\n`);
    else bar("sending", sent, size);
    if (!json && sent === size && process.stderr.isTTY) process.stderr.write("\n");
  };
}

function stepReporter({ json }: RemoteOptions): (status: FirmwareStatus) => void {
  let told = "";
  return ({ update }) => {
    if (!update) return;
    const { step, uploadedBytes, size } = update;
    const now = `${step} ${uploadedBytes}`;
    if (now === told) return;
    told = now;
    if (json) process.stdout.write(`${JSON.stringify({ type: "step", step, uploadedBytes })}\n`);
    else bar(step === "leased" ? "writing" : step, step === "leased" ? uploadedBytes : size, size);
  };
}

function bar(what: string, bytes: number, size: number): void {
  if (!process.stderr.isTTY) return;
  const percent = size === 0 ? 100 : Math.floor((100 * bytes) / size);
  const drawn = "#".repeat(Math.floor(percent / 4)).padEnd(25, ".");
  process.stderr.write(`\r\u001b[K${what.padEnd(9)} [${drawn}] ${percent} % of ${size} bytes`);
}

function describe({ floor, update }: FirmwareStatus): string {
  const sealed = floor > 0 ? `; sealed below ${floor}` : "";
  if (!update) return `no update yet${sealed}`;
  const { step, version, previousVersion, reason, receivedBytes, uploadedBytes, size } = update;
  const before = previousVersion === undefined ? "" : `, before it ${previousVersion}`;
  const why = reason === undefined ? "" : ` (${reason})`;
  const progress =
    step === "receiving"
      ? `, ${receivedBytes} of ${size} bytes`
      : step === "leased"
        ? `, ${uploadedBytes} of ${size} bytes written`
        : "";
  return `${step}: version ${version}${before}${progress}${why}${sealed}`;
}
