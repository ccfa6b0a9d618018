import { X509Certificate } from "node:crypto";
import { lookup } from "node:dns/promises";
import { readFile } from "node:fs/promises";
import { type AtClient, openAtClient } from "../../atplatform/client/at-client.js";
import type { AtKeys } from "../../atplatform/crypto/at-keys.js";
import { AtServerError } from "../../atplatform/protocol/at-error.js";
import { parseAtSign } from "../../atplatform/protocol/at-sign.js";
import { connectTls } from "../../atplatform/transport/connect.js";
import { Directory } from "../../atplatform/transport/directory.js";
import { formatHostPort, type HostPort } from "../../atplatform/transport/host-port.js";
import { nameToResolve } from "../../atplatform/transport/lookup.js";
import { proxyFromEnvironment } from "../../atplatform/transport/proxy.js";
import { type Clock, systemClock } from "../../core/clock.js";
import { withDeadline } from "../../core/deadline.js";
import { codeOf, EdgeError } from "../../core/errors.js";
import { namespaceOf } from "../../messages/names.js";
import { fingerprintOf } from "../../messages/pins.js";
import type { AgentConfig } from "../config/parse.js";
import { holdsEverything, reaches } from "../keys/manager-keys.js";
import { bad, type Finding, ok, said, skipped, warn } from "./finding.js";
import { notReached } from "./site-checks.js";

const STEP_MS = 10_000;
const MAX_PEERS = 32;
/** More is worth a word; two machines that ask the same time servers are never so far apart. */
const TOLERATED_MS = 5_000;
const TOO_FAR_MS = 60_000;

export interface ReachOptions {
  readonly config: AgentConfig;
  readonly keys: AtKeys | undefined;
  readonly clock?: Clock;
}

/** The way to the atServer, step by step, and what it says of these keys. Each step within ten seconds. */
export async function* checkReach(
  { config, keys, clock = systemClock }: ReachOptions,
  signal: AbortSignal,
): AsyncGenerator<Finding, void> {
  const { directory, atsign } = config;
  const atSign = parseAtSign(atsign);
  const ca = await readCa(config.ca);
  if (ca.finding) yield ca.finding;
  const within = <T>(what: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> =>
    withDeadline(work, { clock, timeoutMs: STEP_MS, what }, signal);
  const connect = (to: HostPort, signal: AbortSignal) =>
    connectTls({ ...to, ca: ca.text, clock, timeoutMs: STEP_MS }, signal);

  yield* resolved("dns", directory, within);
  let server: HostPort;
  try {
    await using channel = await connect(directory, signal);
    yield ok("directory", `${formatHostPort(directory)} answers, and its certificate is good`);
    await channel[Symbol.asyncDispose]();
    if (directory.kind === "proxy") yield skipped("directory", "it takes the place of every atServer (proxy:…)");
    server = await new Directory({ address: directory, connect, clock, answerTimeoutMs: STEP_MS }).find(atSign, signal);
    yield ok("atServer", `${atSign} is at ${formatHostPort(server)}`);
  } catch (error) {
    yield unreached("directory", directory, error, atSign);
    return yield* notReached(["atServer", "login", "peers"], "the directory has to be reached first");
  }
  yield* resolved("dns", server, within);
  try {
    await using channel = await connect(server, signal);
    await channel[Symbol.asyncDispose]();
    yield ok("tls", `${formatHostPort(server)} answers, and its certificate is good`);
  } catch (error) {
    yield unreached("tls", server, error, atSign);
    return yield* notReached(["login", "peers"], "the atServer has to be reached first");
  }
  if (!keys) return yield* notReached(["login", "peers"], "there are no keys to log in with");
  const options = { atSign, keys, directory, clock, ...(ca.text !== undefined && { ca: ca.text }) };
  await using client = await openAtClient({ ...options, commandTimeoutMs: STEP_MS }, signal);
  yield* loggedIn(client, { config, keys, clock }, within);
}

type Within = <T>(what: string, work: (signal: AbortSignal) => Promise<T>) => Promise<T>;

async function* resolved(check: string, to: HostPort, within: Within): AsyncGenerator<Finding, void> {
  const proxy = proxyFromEnvironment(to);
  if (proxy) {
    yield skipped(check, `${to.host} is reached through the proxy ${formatHostPort(proxy)}, which looks it up`);
    return;
  }
  try {
    const found = await within(`the address of ${to.host}`, () => lookup(nameToResolve(to.host), { all: true }));
    yield ok(check, `${to.host} is ${found.map(({ address }) => address).join(", ")}`);
  } catch (error) {
    yield bad(
      check,
      `the name ${to.host} is not found (${codeOf(error) ?? said(error)})`,
      "look at the network: `ip addr`, `ip route`, `resolvectl status`; or the name is misspelt in `directory`",
    );
  }
}

function unreached(check: string, to: HostPort, error: unknown, atSign: string): Finding {
  switch (codeOf(error)) {
    case "ATSIGN_UNKNOWN":
      return bad(
        "atServer",
        `the directory does not know ${atSign}`,
        "look at `atsign` and `directory` in the configuration",
      );
    case "CLOCK_FAULT":
      return bad(
        check,
        said(error),
        "set the clock: `timedatectl`; a board without a battery needs time from the network",
      );
    case "CERTIFICATE_REFUSED":
      return bad(
        check,
        said(error),
        'a platform of one\'s own: name its authority with ca = "FILE"; otherwise somebody is in between',
      );
    case "PROXY_REFUSED":
      return bad(check, said(error), "look at HTTPS_PROXY and NO_PROXY");
    default:
      return bad(
        check,
        said(error),
        `does anything let this machine out to port ${to.port}? \`nc -vz ${to.host} ${to.port}\``,
      );
  }
}

async function* loggedIn(
  client: AtClient,
  { config, keys, clock = systemClock }: ReachOptions & { readonly keys: AtKeys },
  within: Within,
): AsyncGenerator<Finding, void> {
  const { atsign, device, ns } = config;
  try {
    const published = await within("the published key", (signal) =>
      client.publicKeyOf(client.atSign, { fresh: true }, signal),
    );
    yield ok("login", `the atServer lets ${atsign} in with these keys`);
    if (published.trim() !== keys.encryption.publicText)
      yield bad(
        "keys",
        `${atsign} has published another encryption key than the one in the key file: it was set up anew`,
        "enrol this board again",
      );
  } catch (error) {
    yield notIn(error, config);
    return yield* notReached(["enrolment", "clock", "peers"], "the login has to work first");
  }
  yield* enrolled(client, { config, keys }, within);
  yield await serverClock(client, `doctor.${namespaceOf({ device, ns })}`, clock, within);
  yield* peers(client, config, within);
}

function notIn(error: unknown, { atsign, device, keys }: AgentConfig): Finding {
  const anew = `a new enrolment: \`atedge otp --as ${atsign}\` on the owner's machine, then \`atedge enroll ${atsign} --device ${device}\` here`;
  switch (codeOf(error)) {
    case "AT0026":
      return bad(
        "login",
        "the enrolment of these keys is not approved yet",
        `\`atedge approve --as ${atsign}\` on the owner's machine`,
      );
    case "AT0025":
      return bad("login", "the enrolment of these keys was denied", anew);
    case "AT0027":
      return bad(
        "login",
        "the enrolment of these keys was revoked",
        `on the owner's machine \`atedge unrevoke --as ${atsign}\`, or ${anew}`,
      );
    case "AT0028":
    case "AT0029":
      return bad("login", "the enrolment of these keys has expired, or the atServer does not know it", anew);
    case "AT0401":
      return bad(
        "login",
        `the atServer does not take these keys: ${keys} is not of ${atsign}, or it was set up anew`,
        anew,
      );
    case "AT0012":
      return bad(
        "login",
        "the atServer has too many connections",
        "another program logs in again and again? wait a minute",
      );
    default:
      return bad("login", `the login did not work: ${said(error)}`, "try again in a minute");
  }
}

async function* enrolled(
  client: AtClient,
  { config, keys }: { readonly config: AgentConfig; readonly keys: AtKeys },
  within: Within,
): AsyncGenerator<Finding, void> {
  const { device, ns, allowManagerKeys } = config;
  const { enrollmentId } = keys;
  const needed = namespaceOf({ device, ns });
  if (enrollmentId === undefined) {
    const text = "these keys are of no enrolment, so they hold everything of the atSign";
    yield allowManagerKeys ? warn("enrolment", text) : bad("enrolment", text, "enrol this board: docs/start/enroll.md");
    return;
  }
  try {
    const { namespaces, appName, deviceName } = await within("the enrolment", (signal) =>
      client.enrollments.fetch(enrollmentId, signal),
    );
    const holds = Object.entries(namespaces).map(([name, access]) => `${name}:${access}`);
    const text = `${appName} on ${deviceName}, ${holds.join(" ")} (${enrollmentId})`;
    if (!reaches(namespaces, needed))
      yield bad(
        "enrolment",
        `${text} is not for ${needed}: nothing can be sent`,
        "look at device and ns, or enrol anew",
      );
    else if (holdsEverything(namespaces) && !allowManagerKeys)
      yield bad("enrolment", `${text} holds more than a board should`, "enrol this board: docs/start/enroll.md");
    else yield ok("enrolment", text);
  } catch (error) {
    if (!(error instanceof EdgeError)) throw error;
    yield warn("enrolment", `the atServer does not tell what it holds (${error.code})`);
  }
}

/** The atServer dates a record that is written for this; it expires by itself. */
async function serverClock(client: AtClient, key: string, clock: Clock, within: Within): Promise<Finding> {
  try {
    const askedMs = clock.now();
    const shown = await within("the atServer's time", async (signal) => {
      await client.put({ key }, "?", { ttlMs: 60_000 }, signal);
      return (await client.metadataOf({ key, by: client.atSign }, signal))?.updatedAt;
    });
    const answeredMs = clock.now();
    if (!shown) return skipped("clock", "the atServer dates nothing");
    const aheadMs =
      shown.getTime() > answeredMs ? shown.getTime() - answeredMs : Math.min(0, shown.getTime() - askedMs);
    const seconds = (Math.abs(aheadMs) / 1000).toFixed(1);
    if (Math.abs(aheadMs) <= TOLERATED_MS) return ok("clock", "agrees with the atServer's");
    const text = `is ${seconds} s ${aheadMs > 0 ? "behind" : "ahead of"} the atServer's`;
    const todo = "`timedatectl set-ntp true`; if this clock is right, tell the operator of the atServer";
    return Math.abs(aheadMs) <= TOO_FAR_MS ? warn("clock", text, todo) : bad("clock", text, todo);
  } catch (error) {
    if (!(error instanceof EdgeError)) throw error;
    return warn("clock", `could not be compared with the atServer's: ${error.message}`);
  }
}

/** Whether those who read and command are there, with the keys that are expected. */
async function* peers(client: AtClient, { reader, allow }: AgentConfig, within: Within): AsyncGenerator<Finding, void> {
  const named = [...reader, ...allow].filter(({ atsign }) => /^@[^*]+$/u.test(atsign));
  const keysOf = new Map<string, string | undefined>();
  for (const { atsign, key } of named) keysOf.set(atsign, keysOf.get(atsign) ?? key);
  for (const [name, pin] of [...keysOf].slice(0, MAX_PEERS)) {
    try {
      const text = await within(`the key of ${name}`, (signal) =>
        client.publicKeyOf(parseAtSign(name), { fresh: true }, signal),
      );
      const fingerprint = fingerprintOf(text);
      if (pin === undefined) yield ok("peers", `${name} is there; its key is ${fingerprint}, which nothing pins`);
      else if (pin === fingerprint) yield ok("peers", `${name} is there with the pinned key`);
      else
        yield bad(
          "peers",
          `${name} shows the key ${fingerprint}, not the pinned one: nothing is sent to it or taken from it`,
          "ask its owner, not by the atPlatform, whether it was set up anew; only then change `key`",
        );
    } catch (error) {
      if (!(error instanceof EdgeError)) throw error;
      yield unseen(name, error);
    }
  }
}

function unseen(name: string, error: EdgeError): Finding {
  if (error.code === "NOT_ACTIVATED")
    return bad("peers", `${name} was never activated`, `its owner runs \`atedge onboard ${name}\``);
  if (error instanceof AtServerError && error.code === "AT0007")
    return bad("peers", `no atServer of ${name} is found`, "look at the spelling; is it on another directory?");
  return warn("peers", `${name} could not be looked up: ${error.message}`);
}

async function readCa(
  file: string | undefined,
): Promise<{ readonly text: string | undefined; readonly finding?: Finding }> {
  if (file === undefined) return { text: undefined };
  try {
    const text = await readFile(file, "utf8");
    const { validTo, subject } = new X509Certificate(text);
    if (Date.parse(validTo) < Date.now())
      return { text, finding: bad("ca", `${file} has expired on ${validTo}`, "get the new one from the platform") };
    return { text, finding: ok("ca", `${file}: ${subject.replaceAll("\n", ", ")}, until ${validTo}`) };
  } catch (error) {
    const what =
      codeOf(error)?.startsWith("ERR_OSSL") === true
        ? "is no certificate in PEM"
        : `cannot be read (${codeOf(error) ?? said(error)})`;
    return { text: undefined, finding: bad("ca", `${file} ${what}`, "copy the platform's ca.pem there") };
  }
}
