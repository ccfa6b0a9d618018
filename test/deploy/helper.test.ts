import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readlinkSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import nacl from "tweetnacl";
import type { Test } from "tap";
import t from "tap";
import { withUpdateCommands } from "../../agent/update/update-commands.js";
import { requestUpdate, type UpdateOutcome } from "../../core/update-request.js";
import { runCommand, type RunCommand } from "../../deploy/update/commands.js";
import { controlOf } from "../../deploy/update/deb-installation.js";
import { runHelper } from "../../deploy/update/helper.js";
import { type Release, signRelease } from "../../deploy/update/release.js";
import { tempFolder } from "../fixtures/temp-folder.js";

const signer = nacl.sign.keyPair();
const stranger = nacl.sign.keyPair();
const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");
const signal = new AbortController().signal;

/** A machine without dpkg, as a tree of folders: version 0.1.0 in /opt/atedge, nothing of ours runs. */
class Machine {
  readonly root: string;
  readonly requests: string;
  readonly #folder: string;

  constructor(t: Test) {
    this.root = tempFolder(t);
    this.requests = join(this.root, "requests");
    this.#folder = join(this.root, "helper");
    for (const folder of ["usr/lib", "opt/atedge/0.1.0", "requests"])
      mkdirSync(join(this.root, folder), { recursive: true });
    writeFileSync(join(this.root, "opt/atedge/0.1.0/package.json"), '{"version":"0.1.0"}');
    symlinkSync("0.1.0", join(this.root, "opt/atedge/current"));
    symlinkSync("../../opt/atedge/current", join(this.root, "usr/lib/atedge"));
    writeFileSync(join(this.root, "update.toml"), `keys = ["${base64(signer.publicKey)}"]\n`);
    writeFileSync(join(this.root, "helper-program.js"), "// the helper\n");
  }

  /** A gzip'd tar with a program of this version. */
  archive(version: string): Buffer {
    const folder = join(this.root, `build-${version}`);
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, "package.json"), JSON.stringify({ version }));
    return execFileSync("tar", ["-czf", "-", "-C", folder, "."]);
  }

  async ask(file: string, release: Omit<Release, "typ">, key = signer.secretKey): Promise<UpdateOutcome> {
    await requestUpdate(this.requests, { file, ...signRelease(release, key) });
    return this.run();
  }

  async run(): Promise<UpdateOutcome> {
    const run: RunCommand = async (program, ...args) => {
      if (program === "systemctl") return "inactive\n";
      if (program === "dpkg") return "amd64\n";
      return runCommand(program, ...args);
    };
    await runHelper("run", {
      ...{ run, program: join(this.root, "helper-program.js"), say: () => {} },
      ...{ folder: this.#folder, requests: this.requests, config: join(this.root, "update.toml") },
      library: join(this.root, "usr/lib/atedge"),
    });
    return JSON.parse(readFileSync(join(this.#folder, "outcome.json"), "utf8")) as UpdateOutcome;
  }

  get version(): string {
    return readlinkSync(join(this.root, "opt/atedge/current"));
  }
}

const releaseOf = (bytes: Buffer, version: string): Omit<Release, "typ"> => ({
  ...{ version, kind: "tar", arch: "amd64", bytes: bytes.length },
  sha256: createHash("sha256").update(bytes).digest("hex"),
});

t.test("a signed release is installed as a folder of its own", { timeout: 60_000 }, async (t) => {
  const machine = new Machine(t);
  const bytes = machine.archive("0.2.0");
  writeFileSync(join(machine.requests, "release.tar"), bytes);
  t.match(await machine.ask("release.tar", releaseOf(bytes, "0.2.0")), { outcome: "installed", to: "0.2.0" });
  t.equal(machine.version, "0.2.0");
  t.ok(existsSync(join(machine.root, "opt/atedge/0.1.0")), "the one before is kept");
  t.notOk(existsSync(join(machine.requests, "request.json")), "the request is gone");
});

t.test("what the agent's user could put there is refused, and nothing changes", async (t) => {
  const machine = new Machine(t);
  const bytes = machine.archive("0.2.0");
  const good = releaseOf(bytes, "0.2.0");
  const refused = async (what: string, outcome: Promise<UpdateOutcome>, why: RegExp): Promise<void> => {
    const put = await outcome;
    t.equal(put.outcome, "refused", what);
    t.match(put.why, why, what);
    t.equal(machine.version, "0.1.0");
  };
  const put = (content: Buffer = bytes): void => writeFileSync(join(machine.requests, "release.tar"), content);

  put();
  await refused("a stranger's", machine.ask("release.tar", good, stranger.secretKey), /not signed by a key/u);
  t.notOk(existsSync(join(machine.requests, "release.tar")), "a file that was refused is not kept");
  put(Buffer.concat([bytes, Buffer.from("x")]));
  await refused("another file", machine.ask("release.tar", good), /not the one that was signed/u);
  put();
  await refused("an older one", machine.ask("release.tar", { ...good, version: "0.0.9" }), /not newer/u);
  put();
  await refused("another processor's", machine.ask("release.tar", { ...good, arch: "armhf" }), /for armhf/u);
  put();
  await refused("a package", machine.ask("release.tar", { ...good, kind: "deb" }), /takes a tar/u);
  symlinkSync("/etc/shadow", join(machine.requests, "link.tar"));
  await refused("a link", machine.ask("link.tar", good), /cannot be read/u);
  await refused("a path", machine.ask("../../etc/passwd", good), /not one of/u);
  writeFileSync(join(machine.requests, "request.json"), "{");
  await refused("no JSON", machine.run(), /cannot be read/u);
  put();
  writeFileSync(join(machine.root, "update.toml"), "");
  await refused("without a key", machine.ask("release.tar", good), /takes no updates/u);
});

t.test("the agent takes a release in pieces, goes on after a cut, and hands it over", async (t) => {
  const machine = new Machine(t);
  const bytes = machine.archive("0.2.0");
  const signed = signRelease(releaseOf(bytes, "0.2.0"), signer.secretKey);
  const open = () =>
    withUpdateCommands(
      { commands: [], call: () => Promise.reject(new Error("not mine")) },
      { folder: machine.requests, version: "0.1.0", helperFolder: join(machine.root, "helper") },
    );
  const by = { caller: "@grower", id: "1" };
  const call = (name: string, args: Record<string, string | number> = {}) => open().call(name, args, by, signal);

  await t.rejects(call("update-data", { offset: 0, data: "" }), { message: /no release has been begun/u });
  await t.rejects(call("update-begin", { signed: "{}", signature: "" }), { message: /no description of a release/u });
  t.match(await call("update-begin", { ...signed }), { offset: 0 });
  const piece = (from: number, to: number): string => bytes.subarray(from, to).toString("base64");
  t.match(await call("update-data", { offset: 0, data: piece(0, 50) }), { offset: 50 });
  t.match(await call("update-data", { offset: 0, data: piece(0, 50) }), { offset: 50 }, "a repeat is taken once");
  t.match(await call("update-begin", { ...signed }), { offset: 50 }, "the same release goes on");
  t.match(await call("update-status"), { incoming: { version: "0.2.0", received: 50 }, underWay: false });
  await t.rejects(call("update-data", { offset: 50, data: Buffer.alloc(bytes.length).toString("base64") }), {
    message: /bytes only/u,
  });
  t.match(await call("update-data", { offset: 50, data: piece(50, bytes.length) }), { handedOver: "0.2.0" });
  t.match(await call("update-data", { offset: 50, data: piece(50, bytes.length) }), { handedOver: "0.2.0" }, "again");
  t.match(await call("update-status"), { incoming: null, underWay: true, last: null });
  const older = signRelease(releaseOf(bytes, "0.1.0"), signer.secretKey);
  await t.rejects(call("update-begin", { ...older }), { message: /not newer than 0\.1\.0/u });
  t.equal(readFileSync(join(machine.requests, "atedge_0.2.0.tar")).compare(bytes), 0);
});

t.test("a package's control file is made of what dpkg knows", async (t) => {
  const status =
    "Package: atedge\nStatus: install ok installed\nVersion: 0.1.0\nConffiles:\n /etc/a 123\nDescription: x\n y\n";
  t.equal(controlOf(status), "Package: atedge\nVersion: 0.1.0\nDescription: x\n y\n");
});
