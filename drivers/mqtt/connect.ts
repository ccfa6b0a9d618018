import { randomBytes } from "node:crypto";
import { readFile, rename, writeFile } from "node:fs/promises";
import { connect as connectTcp, isIP, type Socket } from "node:net";
import { join } from "node:path";
import type MqttModule from "mqtt/lib/client";
import type { IClientOptions } from "mqtt/lib/client";
import type { DriverDeps } from "../../core/driver.js";
import { codeOf, DeviceGone, EdgeError } from "../../core/errors.js";
import { untilAborted } from "../../core/scope.js";
import { Secret } from "../../core/secret.js";
import type { MqttConfig } from "./config.js";
import type { Preset } from "./message-source.js";
import { ReceivePath, type ReceivePathOptions } from "./receive-path.js";

type MqttClient = MqttModule.default;

/** The broker answered and does not want us: login, client id, subscription. A human has to look. */
export class BrokerRefused extends EdgeError {
  override readonly code: string = "BROKER_REFUSED";
}

const MAX_PENDING_BYTES = 8_388_608;
const CONNECT_MS = 20_000;

export interface BrokerConnection {
  readonly client: MqttClient;
  readonly path: ReceivePath;
}

/**
 * Connects and subscribes. `receive` may be called before this resolves: a session that the broker has kept goes on at
 * once. The library is loaded on the first call.
 *
 * @throws {BrokerRefused}, {DeviceGone} when there is no broker, {EdgeError} when a file cannot be read.
 */
export async function connectToBroker(
  config: MqttConfig,
  plan: Preset,
  deps: DriverDeps,
  receive: ReceivePathOptions["receive"],
  signal: AbortSignal,
): Promise<BrokerConnection> {
  const password = config.passwordFile === undefined ? undefined : await readPassword(config.passwordFile);
  const clientId = config.clientId ?? (await keptClientId(deps));
  const { default: library } = await import("mqtt/lib/client");
  signal.throwIfAborted();
  const socket = await openSocket(config);
  const path = new ReceivePath({
    socket,
    version: config.version === "5" ? 5 : 4,
    receive,
    hurry: deps.hurry,
    maxPacketBytes: config.maxMessageBytes + 65_540,
    maxPending: config.maxPending,
    maxPendingBytes: MAX_PENDING_BYTES,
  });
  // Its errors reach us by `errored` when it has closed.
  path.on("error", () => undefined);
  const client = new library.default(() => path, clientOptions(config, clientId, password));
  try {
    await untilAborted(untilConnected(config, client, path), signal);
    await untilAborted(subscribe(config, plan, client, path), signal);
    return { client, path };
  } catch (error) {
    client.end(true);
    path.destroy();
    throw error;
  }
}

function clientOptions(config: MqttConfig, clientId: string, password: Secret | undefined): IClientOptions {
  const { username, keepAliveSeconds, sessionExpirySeconds, maxPending, maxMessageBytes } = config;
  return {
    clientId,
    clean: false,
    keepalive: keepAliveSeconds,
    connectTimeout: CONNECT_MS,
    // The supervisor opens the driver again; a connection is used once.
    reconnectPeriod: 0,
    resubscribe: false,
    queueQoSZero: false,
    // Saves 11 to 16 MB of RSS (shared/toolchain.md).
    writeCache: false,
    timerVariant: "native",
    ...(username === undefined ? {} : { username }),
    ...(password === undefined ? {} : { password: password.reveal() }),
    ...(config.version === "3.1.1"
      ? { protocolVersion: 4 }
      : {
          protocolVersion: 5,
          properties: {
            sessionExpiryInterval: sessionExpirySeconds,
            receiveMaximum: maxPending,
            maximumPacketSize: maxMessageBytes + 65_540,
          },
        }),
  };
}

async function openSocket(config: MqttConfig): Promise<Socket> {
  const { protocol, hostname, port } = new URL(config.url);
  const host = hostname.replace(/^\[|\]$/gu, "");
  if (protocol === "mqtt:") return connectTcp({ host, port: Number(port || 1883) }).setNoDelay(true);
  const { connect } = await import("node:tls");
  const [ca, cert, key] = await Promise.all([config.ca, config.cert, config.key].map(readPem));
  const servername = config.serverName ?? (isIP(host) === 0 ? host : undefined);
  return connect({
    host,
    port: Number(port || 8883),
    minVersion: "TLSv1.2",
    ...(servername === undefined ? {} : { servername }),
    ...(ca === undefined ? {} : { ca }),
    ...(cert === undefined || key === undefined ? {} : { cert, key }),
  });
}

function untilConnected({ url }: MqttConfig, client: MqttClient, path: ReceivePath): Promise<void> {
  return new Promise((resolve, reject) => {
    client.once("connect", () => resolve());
    client.on("error", (error) => {
      const refused = "code" in error && typeof error.code === "number";
      reject(refused ? refusal(url, error.message, error) : unreachable(url, error));
    });
    path.once("close", () => reject(unreachable(url, path.errored)));
  });
}

async function subscribe(config: MqttConfig, plan: Preset, client: MqttClient, path: ReceivePath): Promise<void> {
  const filters = new Map<string, 0 | 1>();
  for (const { filter, qos, subscribed } of plan.sources) {
    if (subscribed !== false && filters.get(filter.filter) !== 1) filters.set(filter.filter, qos);
  }
  for (const { answerTopic } of config.command)
    if (answerTopic !== undefined) filters.set(answerFilter(answerTopic), 1);
  if (filters.size === 0) return;
  const closed = new Promise<never>((_, reject) =>
    path.once("close", () => reject(unreachable(config.url, path.errored))),
  );
  const map = Object.fromEntries(Array.from(filters, ([filter, qos]) => [filter, { qos }]));
  const granted = client.subscribeAsync(map).catch((cause: unknown) => {
    throw refusal(config.url, "a subscription is not granted", cause);
  });
  await Promise.race([granted, closed]);
}

/** An answer topic may depend on arguments; then every value of theirs is subscribed. */
const answerFilter = (topic: string): string =>
  topic
    .split("/")
    .map((level) => (/\{[A-Za-z0-9_]+\}/u.test(level) ? "+" : level))
    .join("/");

function refusal(url: string, reason: string, cause: unknown): BrokerRefused {
  return new BrokerRefused(`${url} refuses us: ${reason}; check username, passwordFile and the broker's access rules`, {
    cause,
  });
}

function unreachable(url: string, cause: Error | null): DeviceGone {
  return new DeviceGone(`${url} cannot be reached${cause ? `: ${cause.message}` : ""}`, cause ? { cause } : undefined);
}

async function readPassword(file: string): Promise<Secret> {
  return new Secret((await readText(file)).replace(/\r?\n$/u, ""));
}

async function readPem(file: string | undefined): Promise<string | undefined> {
  return file === undefined ? undefined : readText(file);
}

async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (cause) {
    throw new EdgeError(`${file} cannot be read (${codeOf(cause) ?? "unknown error"})`, { cause });
  }
}

/** The session's name at the broker: made once, so that the broker knows us again after every restart. */
async function keptClientId(deps: DriverDeps): Promise<string> {
  const file = join(await deps.stateDir(), "mqtt-client-id");
  try {
    const kept = (await readFile(file, "utf8")).trim();
    if (/^atedge-[0-9a-f]{16}$/u.test(kept)) return kept;
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error;
  }
  const made = `atedge-${randomBytes(8).toString("hex")}`;
  await writeFile(`${file}.new`, `${made}\n`, { mode: 0o600 });
  await rename(`${file}.new`, file);
  return made;
}
