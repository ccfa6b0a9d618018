import { readFile, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { loadKeys } from "../agent/keys/load-keys.js";
import { type AtClient, openAtClient } from "../atplatform/client/at-client.js";
import { atKeysPath } from "../atplatform/crypto/at-keys-file.js";
import { type AtSign, parseAtSign } from "../atplatform/protocol/at-sign.js";
import { parseDirectoryAddress } from "../atplatform/transport/directory.js";
import { codeOf } from "../core/errors.js";
import { TaskGroup } from "../core/scope.js";
import { type Applied, applyPlan } from "../deploy/fleet/apply.js";
import { approveRequests, type Decided } from "../deploy/fleet/approve.js";
import { type DeviceRow, firstBroken, FleetStore } from "../deploy/fleet/fleet-store.js";
import { type Manifest, parseManifest } from "../deploy/fleet/manifest.js";
import { type Plan, planFleet } from "../deploy/fleet/plan.js";
import { fingerprintOf } from "../messages/pins.js";
import type { ApplyArguments, ApproveArguments, FleetOptions } from "./fleet.js";
import { fleetFolder } from "./fleet-folder.js";
import { ArgumentInvalid, CommandFailed, nextStepToReach, withNextStep } from "./next-step.js";
import { askedPassphrase } from "./passphrase.js";
import { readCa } from "./read-ca.js";
import { interruption } from "./remote-options.js";
import { deliverBySsh } from "./ssh.js";

const now = (): number => Date.now();
const out = (text: string): void => void process.stdout.write(`${text}\n`);

export async function plan(file: string, options: FleetOptions): Promise<void> {
  const manifest = await readManifest(file);
  using fleet = await openStore(options);
  const planned = planFleet(manifest, fleet.store, now());
  if (options.json) {
    for (const { device, atSign, step } of planned.devices) {
      out(JSON.stringify({ device: device.name, atsign: atSign, action: step.type, why: step.why }));
    }
  } else tellPlan(planned);
  if (planned.devices.some(({ step }) => step.type === "conflict")) process.exitCode = 1;
}

function tellPlan({ devices, unlisted }: Plan): void {
  const of = (type: string): number => devices.filter(({ step }) => step.type === type).length;
  for (const { device, atSign, step } of devices) {
    if (step.type !== "keep") out(`${device.name.padEnd(30)} ${atSign.padEnd(20)} ${step.type}: ${step.why}`);
  }
  const atSigns = new Set(devices.map(({ atSign }) => atSign)).size;
  out(
    `${devices.length} devices at ${atSigns} atSigns: ${of("bundle")} to be bundled, ${of("keep")} as they should be, ${of("conflict")} need a decision`,
  );
  if (unlisted.length > 0) out(`in the fleet but not in the manifest, left alone: ${unlisted.join(", ")}`);
}

export async function apply(file: string, options: ApplyArguments): Promise<void> {
  const signal = interruption();
  const manifest = await readManifest(file, options);
  using fleet = await openStore(options);
  await using owners = new Owners(manifest.directory, options);
  const planned = planFleet(manifest, fleet.store, now());
  const templates = options.templates ?? join(dirname(file), "templates");
  const bar = new Bar("bundles", planned.devices.length, options.json === true);
  const results = await applyPlan(
    {
      ...{ manifest, plan: planned, store: fleet.store, outDir: options.out, lifeMs: options.life },
      ...(await readCa(options.ca)),
      passcodes: options.passcodes,
      nowMs: now,
      ownerOf: (atSign, stop) => owners.of(atSign, stop),
      templateOf: (name) => readTemplate(join(templates, `${name}.toml`)),
      ...(options.ssh && { deliver: deliverBySsh }),
      onDevice: (result) => bar.step(options.json ? JSON.stringify(result) : lineOf(result)),
    },
    signal,
  ).finally(() => bar.end());
  const count = (outcome: Applied["outcome"]): number => results.filter((each) => each.outcome === outcome).length;
  const summary = {
    bundled: count("bundled"),
    kept: count("kept"),
    conflicts: count("conflict"),
    failed: count("failed"),
  };
  if (options.report !== undefined) await writeReport(options.report, { summary, devices: results });
  if (!options.json)
    out(
      `${summary.bundled} bundles made in ${options.out}, ${summary.kept} devices as they should be, ${summary.conflicts} need a decision, ${summary.failed} failed`,
    );
  if (summary.failed + summary.conflicts > 0) process.exitCode = 1;
}

const lineOf = ({ device, outcome, why }: Applied): string | undefined =>
  outcome === "kept" ? undefined : `${device}: ${outcome === "bundled" ? "bundle made" : `${outcome}: ${why}`}`;

export async function approve(file: string, options: ApproveArguments): Promise<void> {
  const signal = interruption();
  const manifest = await readManifest(file, options);
  using fleet = await openStore(options);
  await using owners = new Owners(manifest.directory, options);
  const atSigns = new Set(planFleet(manifest, fleet.store, now()).devices.map(({ atSign }) => atSign));
  const decisions: Decided[] = [];
  const onDecision = (decided: Decided): void => {
    decisions.push(decided);
    if (options.json) return out(JSON.stringify(decided));
    const { device, atSign, outcome, why, enrollment } = decided;
    const text = `${atSign}: ${device} ${outcome === "approved" ? "is in" : outcome.toUpperCase()}: ${why} (${enrollment})`;
    (outcome === "approved" ? process.stdout : process.stderr).write(`${text}\n`);
  };
  const onWait = ({ message }: Error): void => void process.stderr.write(`${message}; trying again\n`);
  await using watchers = new TaskGroup(signal);
  if (options.watch && !options.json) out(`watching ${atSigns.size} atSigns for boards, until Ctrl-C`);
  for (const atSign of atSigns) {
    const how = { atSign, namespace: manifest.namespace, store: fleet.store, nowMs: now, onDecision, onWait };
    watchers.start((stop) =>
      approveRequests((cut) => owners.of(atSign, cut), { ...how, watch: options.watch === true }, stop),
    );
  }
  await watchers.join();
  const approved = decisions.filter(({ outcome }) => outcome === "approved").length;
  const summary = { approved, others: decisions.length - approved };
  if (options.report !== undefined) await writeReport(options.report, { summary, decisions });
  if (!options.json) out(`${approved} boards let in, ${summary.others} requests denied or failed`);
}

export async function status(options: FleetOptions): Promise<void> {
  using fleet = await openStore(options);
  const rows = fleet.store.devices();
  for (const row of rows) {
    const bundle = row.state === "bundled" ? fleet.store.openBundles(row.name).at(-1) : undefined;
    const late = bundle !== undefined && bundle.expiresAtMs <= now();
    const until = bundle && new Date(bundle.expiresAtMs).toISOString();
    if (options.json) out(JSON.stringify({ ...row, ...(until !== undefined && { bundleUntil: until }) }));
    else
      out(
        `${row.name.padEnd(30)} ${row.atSign.padEnd(20)} ${row.state}${until === undefined ? "" : late ? ", its bundle has expired" : `, bundle good until ${until}`}`,
      );
  }
  if (options.json) return;
  const counts = new Map<string, number>();
  for (const { state } of rows) counts.set(state, (counts.get(state) ?? 0) + 1);
  out(`${rows.length} devices: ${[...counts].map(([state, count]) => `${count} ${state}`).join(", ") || "none yet"}`);
}

export async function retire(name: string, options: FleetOptions & { readonly force?: boolean }): Promise<void> {
  using fleet = await openStore(options);
  const row = deviceOf(fleet.store, name);
  await revoke(fleet.store, row, options).catch((error: unknown) => {
    if (options.force !== true) throw withNextStep(error, "with --force it is retired here all the same");
    process.stderr.write(`not revoked at ${row.atSign}: do that later with \`atedge revoke\`\n`);
  });
  fleet.store.voidBundles(name, "retired");
  fleet.store.putDevice({ ...row, state: "retired", enrollmentId: null }, "retired");
  tell(options, { retired: name }, [
    `${name} is retired: its keys open nothing any more`,
    "If you still have the board, wipe it: sudo apt purge atedge   (removes keys, readings and configuration)",
  ]);
}

export async function replace(
  name: string,
  { serial, ...options }: FleetOptions & { readonly serial: string },
): Promise<void> {
  using fleet = await openStore(options);
  const row = deviceOf(fleet.store, name);
  await revoke(fleet.store, row, options);
  fleet.store.voidBundles(name, "board replaced");
  fleet.store.putDevice({ ...row, serial, state: "planned", enrollmentId: null }, "board replaced", serial);
  tell(options, { replaced: name, serial }, [
    `the old board of ${name} opens nothing any more`,
    `write serial ${serial} into the manifest, then: atedge fleet apply MANIFEST`,
  ]);
}

export async function transfer(
  name: string,
  { to, ...options }: FleetOptions & { readonly to: string },
): Promise<void> {
  const atSign = parseAtSign(to);
  using fleet = await openStore(options);
  const row = deviceOf(fleet.store, name);
  if (row.atSign === atSign) throw new ArgumentInvalid(`${name} is a device of ${atSign} already`);
  await revoke(fleet.store, row, options);
  fleet.store.voidBundles(name, "transferred");
  fleet.store.putDevice(
    { ...row, atSign, state: "planned", enrollmentId: null },
    "transferred",
    `${row.atSign} to ${atSign}`,
  );
  tell(options, { transferred: name, from: row.atSign, to: atSign }, [
    `${name} is no device of ${row.atSign} any more`,
    `write ${atSign} into the manifest, then: atedge fleet apply MANIFEST; on the board: sudo atedge provision FILE --replace`,
  ]);
}

export async function rotate(name: string, options: FleetOptions): Promise<void> {
  using fleet = await openStore(options);
  const row = deviceOf(fleet.store, name);
  if (row.state !== "enrolled") throw new ArgumentInvalid(`${name} is not enrolled, but ${row.state}`);
  fleet.store.putDevice({ ...row, state: "planned" }, "to be rotated");
  tell(options, { rotate: name }, [
    `${name} goes on with its present enrolment until the new one is in; then that is revoked.`,
    "  1. atedge fleet apply MANIFEST",
    "  2. on the board: sudo atedge provision FILE --replace && sudo systemctl restart atedge",
    "  3. atedge fleet approve MANIFEST",
  ]);
}

export async function compromise(name: string, options: FleetOptions): Promise<void> {
  const signal = interruption();
  using fleet = await openStore(options);
  const { store } = fleet;
  const row = deviceOf(store, name);
  await using owners = new Owners(undefined, options);
  const client = await owners.of(row.atSign, signal);
  const fingerprint = fingerprintOf(await client.publicKeyOf(row.atSign, { fresh: true }, signal));
  store.putAtSign(row.atSign, fingerprint, true);
  await revoke(store, row, options);
  const others = store.devices().filter(({ atSign, state }) => atSign === row.atSign && state !== "retired");
  for (const device of others) {
    store.voidBundles(device.name, "atSign compromised");
    store.putDevice({ ...device, state: "compromised" }, "compromised", `with ${name}`);
  }
  tell(options, { compromised: name, atsign: row.atSign, devices: others.map((each) => each.name) }, [
    `${name} is revoked, but it held the keys that decrypt what ${row.atSign} receives, and revoking does not undo that.`,
    `Give ${row.atSign} new keys:`,
    "  1. reset the atSign where you got it (own platform: atedge platform remove, then add)",
    `  2. atedge onboard ${row.atSign}   (move the old key file away first)`,
    `  3. atedge fleet apply MANIFEST    (new bundles for its ${others.length} devices; until then none is let in)`,
    `  4. readers: atedge watch shows the new key; accept it once it is the one that step 2 has printed`,
  ]);
}

export async function audit(options: FleetOptions): Promise<void> {
  using fleet = await openStore(options);
  for (const entry of fleet.store.audit()) {
    const { atMs, what, device, detail } = entry;
    out(options.json ? JSON.stringify(entry) : `${new Date(atMs).toISOString()}  ${device}  ${what}  ${detail}`);
  }
  const broken = firstBroken(fleet.store.audit());
  if (broken) throw new CommandFailed(`the trail is not whole: entry ${broken.seq} does not follow from those before`);
}

/** Ends the enrolment of a device, if it has one. */
async function revoke(store: FleetStore, row: DeviceRow, options: FleetOptions): Promise<void> {
  const id = row.enrollmentId;
  if (id === null) return;
  await using owners = new Owners(undefined, options);
  const signal = interruption();
  const client = await owners.of(row.atSign, signal);
  const { status } = await client.enrollments.fetch(id, signal).catch((error: unknown) => {
    if (!/^AT00(?:26|28|11|15)$/u.test(codeOf(error) ?? "")) throw error;
    return { status: "unknown" };
  });
  if (status === "approved") await client.enrollments.revoke(id, {}, signal);
  store.note("revoked", row.name, id);
}

function deviceOf(store: FleetStore, name: string): DeviceRow {
  const row = store.device(name);
  if (!row)
    throw new ArgumentInvalid(`there is no ${JSON.stringify(name)} in this fleet: \`atedge fleet status\` lists it`);
  return row;
}

async function readManifest(file: string, { directory }: FleetOptions = {}): Promise<Manifest> {
  const text = await readFile(file, "utf8").catch((cause: unknown) => {
    throw new ArgumentInvalid(`the manifest ${file} cannot be read (${codeOf(cause) ?? "unknown error"})`, { cause });
  });
  return { ...parseManifest(text, basename(file)), ...(directory !== undefined && { directory }) };
}

async function readTemplate(path: string): Promise<string> {
  return await readFile(path, "utf8").catch((cause: unknown) => {
    throw new CommandFailed(`the template ${path} cannot be read (${codeOf(cause) ?? "unknown error"})`, { cause });
  });
}

async function openStore({ state }: FleetOptions): Promise<{ readonly store: FleetStore } & Disposable> {
  const store = await FleetStore.open(fleetFolder(state));
  return { store, [Symbol.dispose]: () => store.close() };
}

/** Clients of the owner's atSigns, each opened once. */
class Owners implements AsyncDisposable {
  readonly #directory: string;
  readonly #options: FleetOptions;
  readonly #clients = new Map<AtSign, AtClient>();

  constructor(directory: string | undefined, options: FleetOptions) {
    this.#directory = options.directory ?? directory ?? "root.atsign.org:64";
    this.#options = options;
  }

  async of(atSign: AtSign, signal: AbortSignal): Promise<AtClient> {
    const known = this.#clients.get(atSign);
    if (known) return known;
    const { keysDir, ca } = this.#options;
    const file = keysDir === undefined ? atKeysPath(atSign) : join(keysDir, `${atSign}_key.atKeys`);
    const keys = await loadKeys(file, {
      whenAbsent: `the owner's keys of ${atSign} are needed: \`atedge onboard ${atSign}\` makes them; --keys-dir names another folder`,
      passphrase: askedPassphrase(undefined, file),
    });
    const directory = parseDirectoryAddress(this.#directory);
    const client = await openAtClient({ atSign, keys, directory, ...(await readCa(ca)) }, signal).catch(
      (error: unknown) => {
        throw withNextStep(error, nextStepToReach(error, atSign));
      },
    );
    this.#clients.set(atSign, client);
    return client;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients.values()) await client[Symbol.asyncDispose]();
  }
}

async function writeReport(file: string, report: object): Promise<void> {
  await writeFile(file, `${JSON.stringify({ at: new Date().toISOString(), ...report }, undefined, 2)}\n`);
}

function tell(options: FleetOptions, fact: object, lines: readonly string[]): void {
  out(options.json ? JSON.stringify(fact) : lines.join("\n"));
}

/** How far a long run is: on a terminal one line that fills, elsewhere a line for what happened. */
class Bar {
  readonly #what: string;
  readonly #total: number;
  readonly #isJson: boolean;
  #done = 0;

  constructor(what: string, total: number, isJson: boolean) {
    this.#what = what;
    this.#total = total;
    this.#isJson = isJson;
  }

  step(line: string | undefined): void {
    this.#done += 1;
    if (this.#isJson) return out(line ?? "");
    this.end();
    if (line !== undefined) out(line);
    if (!process.stderr.isTTY) return;
    const filled = Math.floor((30 * this.#done) / this.#total);
    process.stderr.write(`${this.#what} [${"#".repeat(filled).padEnd(30, ".")}] ${this.#done}/${this.#total}`);
  }

  end(): void {
    if (process.stderr.isTTY) process.stderr.write("\r\u001B[K");
  }
}
