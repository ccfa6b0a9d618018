import { readFile } from "node:fs/promises";
import { connect as connectTcp, isIP, type Socket } from "node:net";
import type MqttModule from "mqtt/lib/client";
import type { IClientOptions, IConnackPacket } from "mqtt/lib/client";
import type { DriverDeps } from "../../core/driver.js";
import { codeOf, DeviceGone, EdgeError } from "../../core/errors.js";
import { readMachineId } from "../../core/machine-id.js";
import { untilAborted } from "../../core/scope.js";
import { Secret } from "../../core/secret.js";
import type { MqttConfig } from "./config.js";
import type { Preset } from "./message-source.js";
import { ReceivePath, type ReceivePathOptions } from "./receive-path.js";
import { type MqttSession, openSession } from "./session.js";

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
  /** Where answers with correlation data come that no other topic is configured for. */
  readonly answerTopic: string;
  /** Subscribes what became known while we run. */
  follow(filter: string): void;
  /** Publishes what our last will would. */
  sayGoodbye(): Promise<void>;
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
  const stateDir = await deps.stateDir();
  const session = await openSession({ stateDir, machineId: await readMachineId(), clientId: config.clientId });
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
  const client = new library.default(() => path, clientOptions(config, session.clientId, password));
  const broker: BrokerConnection = {
    client,
    path,
    answerTopic: answerTopicOf(session),
    follow: (filter) => void follow(filter, client, session).catch((error: unknown) => path.destroy(asError(error))),
    sayGoodbye: async () => {
      if (config.will) await publishStatus(client, config.will, config.will.payload);
    },
  };
  try {
    const { sessionPresent } = await untilAborted(untilConnected(config, client, path), signal);
    // Not an error of ours, but a loss that nobody else would tell of.
    if (!sessionPresent && session.wasKept)
      deps.log.warn({ clientId: session.clientId }, "the broker has forgotten our session, and what it kept for us");
    await untilAborted(subscribe(config, plan, session, broker), signal);
    if (config.will && config.will.online !== "") await publishStatus(client, config.will, config.will.online);
    return broker;
  } catch (error) {
    client.end(true);
    path.destroy();
    throw error;
  }
}

/**
 * Says hello under another name and leaves: whether the broker can be reached and lets us in. Heeds no session.
 *
 * @throws as {@link connectToBroker}
 */
export async function greetBroker(config: MqttConfig, signal: AbortSignal): Promise<void> {
  const password = config.passwordFile === undefined ? undefined : await readPassword(config.passwordFile);
  const { default: library } = await import("mqtt/lib/client");
  const guest = { ...config, sessionExpirySeconds: 0, will: undefined };
  const path = new ReceivePath({
    socket: await openSocket(config),
    version: config.version === "5" ? 5 : 4,
    receive: () => Promise.resolve(),
    hurry: () => undefined,
    maxPacketBytes: 65_536,
    maxPending: 1,
    maxPendingBytes: 65_536,
  });
  path.on("error", () => undefined);
  const client = new library.default(() => path, clientOptions(guest, `atedge-guest-${process.pid}`, password));
  try {
    await untilAborted(untilConnected(config, client, path), signal);
  } finally {
    client.end(true);
    path.destroy();
  }
}

function clientOptions(config: MqttConfig, clientId: string, password: Secret | undefined): IClientOptions {
  const { username, keepAliveSeconds, sessionExpirySeconds, maxPending, maxMessageBytes, will } = config;
  return {
    clientId,
    // A session that is to be kept for no time is none, in 3.1.1 too.
    clean: sessionExpirySeconds === 0,
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
    ...(will === undefined
      ? {}
      : { will: { topic: will.topic, payload: Buffer.from(will.payload), qos: will.qos, retain: will.retain } }),
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

function untilConnected({ url }: MqttConfig, client: MqttClient, path: ReceivePath): Promise<IConnackPacket> {
  return new Promise((resolve, reject) => {
    client.once("connect", resolve);
    client.on("error", (error) => {
      const refused = "code" in error && typeof error.code === "number";
      reject(refused ? refusal(url, error.message, error, hintFor(error.code)) : unreachable(url, error));
    });
    path.once("close", () => reject(unreachable(url, path.errored)));
  });
}

async function subscribe(
  config: MqttConfig,
  plan: Preset,
  session: MqttSession,
  { client, path, answerTopic }: BrokerConnection,
): Promise<void> {
  const filters = new Map<string, 0 | 1>();
  for (const { filter, qos, subscribed } of plan.sources) {
    if (subscribed !== false && filters.get(filter.filter) !== 1) filters.set(filter.filter, qos);
  }
  for (const command of config.command) {
    if (command.answerTopic !== undefined) filters.set(answerFilter(command.answerTopic), 1);
    else if (command.correlate) filters.set(answerTopic, 1);
  }
  const closed = new Promise<never>((_, reject) =>
    path.once("close", () => reject(unreachable(config.url, path.errored))),
  );
  closed.catch(() => undefined);
  const follows = plan.sources.some(({ subscribed }) => subscribed === false);
  const stale = session.stale(filters.keys(), follows);
  if (stale.length > 0) {
    await Promise.race([client.unsubscribeAsync(stale), closed]);
    await session.unsubscribed(stale);
  }
  await session.willSubscribe(filters.keys());
  if (filters.size === 0) return;
  const map = Object.fromEntries(Array.from(filters, ([filter, qos]) => [filter, { qos }]));
  const granted = client.subscribeAsync(map).catch((cause: unknown) => {
    throw refusal(config.url, "a subscription is not granted", cause);
  });
  await Promise.race([granted, closed]);
}

async function follow(filter: string, client: MqttClient, session: MqttSession): Promise<void> {
  await session.willFollow(filter);
  client.subscribe(filter, { qos: 1 });
}

async function publishStatus(
  client: MqttClient,
  { topic, qos, retain }: NonNullable<MqttConfig["will"]>,
  payload: string,
): Promise<void> {
  await client.publishAsync(topic, payload, { qos, retain });
}

const answerTopicOf = ({ clientId }: MqttSession): string => `atedge/answers/${clientId}`;

const asError = (error: unknown): Error => (error instanceof Error ? error : new Error(String(error)));

/** An answer topic may depend on arguments; then every value of theirs is subscribed. */
const answerFilter = (topic: string): string =>
  topic
    .split("/")
    .map((level) => (/\{[A-Za-z0-9_]+\}/u.test(level) ? "+" : level))
    .join("/");

function refusal(url: string, reason: string, cause: unknown, hint = ACCESS_HINT): BrokerRefused {
  return new BrokerRefused(`${url} refuses us: ${reason}; ${hint}`, { cause });
}

const ACCESS_HINT = "check username, passwordFile and the broker's access rules";

/** By return code of 3.1.1 (section 3.2.2.3) or reason code of 5 (section 3.2.2.2). */
function hintFor(code: unknown): string {
  if (code === 1 || code === 0x84) return "it does not speak this version of MQTT: set version to the other one";
  if (code === 2 || code === 0x85) return "it does not take our clientId: set another one";
  return ACCESS_HINT;
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
