import { constants } from "node:fs";
import { access, stat } from "node:fs/promises";
import { connect as connectTcp, type Socket } from "node:net";
import { trustedProgram } from "../../drivers/exec/trusted-program.js";
import { systemClock } from "../../core/clock.js";
import { withDeadline } from "../../core/deadline.js";
import { codeOf, EdgeError } from "../../core/errors.js";
import type { AgentConfig } from "../config/parse.js";
import type { AnyDriverConfig } from "../driver-kinds.js";
import { bad, type Finding, ok, warn } from "./finding.js";

const CONNECT_MS = 5_000;

/** What the drivers need of this machine: ports, brokers, programs. Nothing is taken away from a running agent. */
export async function* checkDrivers(
  { driver, metricsPort }: AgentConfig,
  isRunning: boolean,
  signal: AbortSignal,
): AsyncGenerator<Finding, void> {
  for (const config of driver) yield* await checkDriver(config, signal);
  if (metricsPort === undefined || isRunning) return;
  const answer = await reached("127.0.0.1", metricsPort);
  if (answer === undefined)
    yield bad(
      "metrics",
      `port ${metricsPort} of this machine is in use by another program`,
      "name a free port with metricsPort",
    );
}

async function checkDriver(config: AnyDriverConfig, signal: AbortSignal): Promise<readonly Finding[]> {
  const check = `driver ${config.id}`;
  switch (config.type) {
    case "serial":
      return [config.path === undefined ? await usb(check, config.usb) : await port(check, config.path)];
    case "modbus":
      if (config.path !== undefined) return [await port(check, config.path)];
      return [await tcp(check, config.host ?? "", config.port)];
    case "link":
    case "smp":
      return [await port(check, config.path)];
    case "mqtt":
      return await broker(check, config, signal);
    case "exec":
      return [await program(check, config.folder, config.program)];
    default:
      return []; // what they need shows when they run: see the agent's own parts
  }
}

async function port(check: string, path: string): Promise<Finding> {
  try {
    if (!(await stat(path)).isCharacterDevice())
      return bad(check, `${path} is no port`, "look at `ls -l /dev/serial/by-id`");
    await access(path, constants.R_OK | constants.W_OK);
    return ok(check, `${path} is there and may be used`);
  } catch (error) {
    if (codeOf(error) === "ENOENT")
      return bad(check, `there is no ${path}`, "is it plugged in? `ls -l /dev/serial/by-id` shows what is");
    const [{ gid } = { gid: 0 }] = [await stat(path).catch(() => undefined)];
    return bad(
      check,
      `${path} may not be used by this user`,
      `it belongs to group ${gid}: \`usermod -aG dialout <the agent's user>\`, then log in anew; the unit has SupplementaryGroups=dialout`,
    );
  }
}

async function usb(check: string, match: SerialConfig["usb"]): Promise<Finding> {
  if (match === undefined) return bad(check, "has neither path nor usb");
  const { findUsbPorts, listSerialPorts } = await import("../../drivers/serial/usb-ports.js");
  const found = await findUsbPorts(match);
  const text = Object.values(match).join(":");
  if (found.length === 1 && found[0]) return await port(check, found[0].path);
  if (found.length > 1)
    return bad(check, `${found.length} adapters are ${text}`, 'add the serial number: usb = "vendor:product:serial"');
  const others = (await listSerialPorts()).map(({ path }) => path);
  return bad(
    check,
    `no USB adapter is ${text}`,
    others.length > 0 ? `there are: ${others.join(", ")}` : "is it plugged in?",
  );
}

async function tcp(check: string, host: string, port: number): Promise<Finding> {
  const error = await reached(host, port);
  if (error === undefined) return ok(check, `${host}:${port} answers`);
  return bad(check, `${host}:${port} does not answer (${error})`, `\`nc -vz ${host} ${port}\``);
}

async function program(check: string, folder: string, name: string): Promise<Finding> {
  try {
    const path = await trustedProgram(folder, name, [0, process.getuid?.() ?? 0]);
    return ok(check, `${path} may be run, and nobody else can change it`);
  } catch (error) {
    if (!(error instanceof EdgeError)) throw error;
    return bad(check, error.message);
  }
}

type SerialConfig = Extract<AnyDriverConfig, { readonly type: "serial" }>;
type MqttConfig = Extract<AnyDriverConfig, { readonly type: "mqtt" }>;

async function broker(check: string, config: MqttConfig, signal: AbortSignal): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const file of [config.passwordFile, config.key]) {
    const mode =
      file === undefined
        ? 0
        : await stat(file).then(
            (info) => info.mode,
            () => 0,
          );
    if ((mode & 0o004) !== 0) findings.push(warn(check, `everybody can read ${file}`, `chmod 600 ${file}`));
  }
  try {
    const { greetBroker } = await import("../../drivers/mqtt/connect.js");
    const deadline = { clock: systemClock, timeoutMs: CONNECT_MS, what: `an answer of ${config.url}` };
    await withDeadline((signal) => greetBroker(config, signal), deadline, signal);
    return [...findings, ok(check, `${config.url} lets us in`)];
  } catch (error) {
    if (!(error instanceof EdgeError)) throw error;
    const todo = error.code === "BROKER_REFUSED" ? undefined : "does it run? `systemctl status mosquitto`";
    return [...findings, bad(check, error.message, todo)];
  }
}

/** `undefined` when somebody answers there, else why not. */
function reached(host: string, port: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket: Socket = connectTcp({ host, port });
    const end = (reason: string | undefined): void => {
      socket.destroy();
      resolve(reason);
    };
    socket.setTimeout(CONNECT_MS, () => end("no answer"));
    socket.once("connect", () => end(undefined));
    socket.once("error", (error) => end(codeOf(error) ?? error.message));
  });
}
