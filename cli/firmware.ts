import type { Command } from "commander";
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
  atedge firmware push @greenhouse/north press app.bin --as @grower`;

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

  for (const [name, description] of [
    ["status", "tell how far an update is, or how the last one ended"],
    ["rollback", "go back to the firmware that ran before the last update"],
    ["seal", "never again install anything older than what runs now"],
  ] as const) {
    withRemoteOptions(firmware.command(`${name} <@owner/device> <target>`))
      .description(description)
      .action(async (subject: string, target: string, options: RemoteOptions) => {
        await using device = await openDevice(subject, target, options);
        const result = await device.ask(`firmware-${name}`, {});
        process.stdout.write(`${options.json ? JSON.stringify(result) : describe(result)}\n`);
      });
  }
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
  const { setTimeout: sleep } = await import("node:timers/promises");
  const { FIRMWARE_PIECE_BYTES } = await import("../firmware-bridge/update/firmware-commands.js");
  const { parseSignedManifest } = await import("../firmware-bridge/update/manifest.js");
  const bytes = await readFile(image);
  const manifest = parseSignedManifest(
    JSON.parse(await readFile(options.manifest ?? `${image}.manifest.json`, "utf8")),
  );
  await using device = await openDevice(subject, target, options);
  const told = progress(options.json ?? false, bytes.length);
  let offset = offsetOf(await device.ask("firmware-begin", { ...manifest }));
  while (offset < bytes.length) {
    told(offset);
    const data = bytes.subarray(offset, offset + FIRMWARE_PIECE_BYTES).toString("base64");
    offset = offsetOf(await device.ask("firmware-data", { offset, data }));
  }
  told(offset);
  for (let status = await device.ask("firmware-status", {}); ; status = await device.ask("firmware-status", {})) {
    const { step } = updateOf(status);
    const ended = step === "confirmed" || step === "reverted" || step === "rejected";
    if (ended || !options.wait) {
      process.stdout.write(`${options.json ? JSON.stringify(status) : describe(status)}\n`);
      if (ended && step !== "confirmed") process.exitCode = 1;
      return;
    }
    await sleep(1000, undefined, { signal: device.signal });
  }
}

/** A bar on a terminal, a JSON line each for pipes. */
function progress(json: boolean, size: number): (sent: number) => void {
  return (sent) => {
    const percent = Math.floor((100 * sent) / size);
    if (json) process.stdout.write(`${JSON.stringify({ sent, size })}\n`);
    else if (process.stderr.isTTY) {
      const bar = "#".repeat(Math.floor(percent / 4)).padEnd(25, ".");
      process.stderr.write(`\r[${bar}] ${percent} % of ${size} bytes${sent === size ? "\n" : ""}`);
    }
  };
}

const TRIES = 10;

/** One driver of a device; a command that may be repeated is repeated while the device is away. */
async function openDevice(subject: string, target: string, options: RemoteOptions) {
  const { randomUUID } = await import("node:crypto");
  const { call } = await import("../remote/call.js");
  const { interruption, openRemote } = await import("./remote-options.js");
  const { CommandRefused } = await import("../core/command-errors.js");
  const signal = interruption();
  const { session, log } = await openRemote(subject, options, signal);
  const { owner, address, platform, trust, outbound } = session;
  return {
    signal,
    async ask(command: string, args: Record<string, string | number>): Promise<unknown> {
      const id = randomUUID(); // the same for each try: the device acts once
      for (let left = TRIES; ; left -= 1) {
        const outcome = await call(
          { platform, trust, outbound, owner, address, target, command, args, id, log },
          signal,
        );
        if (outcome.kind === "success") return outcome.result;
        const lost = outcome.kind === "offline" || outcome.kind === "unknown";
        if (!lost || left === 0) throw new CommandRefused(`${command}: ${outcome.message}`);
      }
    },
    [Symbol.asyncDispose]: () => session[Symbol.asyncDispose](),
  };
}

interface Told {
  readonly step?: string;
  readonly version?: string;
  readonly reason?: string;
}

function updateOf(status: unknown): Told {
  const update: unknown =
    typeof status === "object" && status !== null && "update" in status ? status.update : undefined;
  if (typeof update !== "object" || update === null) return {};
  const text = (name: string): string | undefined => {
    const value: unknown = Object.getOwnPropertyDescriptor(update, name)?.value;
    return typeof value === "string" ? value : undefined;
  };
  const entries = (["step", "version", "reason"] as const).map((name) => [name, text(name)] as const);
  return Object.fromEntries(entries.filter(([, value]) => value !== undefined));
}

function offsetOf(result: unknown): number {
  const offset: unknown =
    typeof result === "object" && result !== null && "offset" in result ? result.offset : undefined;
  if (typeof offset !== "number") throw new TypeError("the device gave no offset");
  return offset;
}

function describe(result: unknown): string {
  const { step, version, reason } = updateOf(result);
  if (step === undefined) return JSON.stringify(result);
  return `${step}: version ${version ?? "?"}${reason === undefined ? "" : ` (${reason})`}`;
}
