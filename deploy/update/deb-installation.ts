import { cp, mkdir, readFile, readdir, rename, rm, writeFile, copyFile, lstat } from "node:fs/promises";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { CommandFailed, type RunCommand } from "./commands.js";
import { type Release, ReleaseRefused } from "./release.js";
import type { Installation } from "./updater.js";

const PACKAGE = "atedge";
const DPKG_INFO = "/var/lib/dpkg/info";
const CONTROL_FILES = ["preinst", "postinst", "prerm", "postrm", "conffiles", "md5sums"];
const LOCKED_FOR_MS = 8 * 60_000;
const LOCK_LOOK_MS = 3000;
/** A file that the owner has changed stays as it is, without a question. */
const QUIETLY = ["--force-confdef", "--force-confold"];

/**
 * What dpkg has installed. The present version is kept as a package of its own, made from the installed files, for it
 * may have come from anywhere; the package that an update brought is kept for the next one.
 */
export class DebInstallation implements Installation {
  readonly #run: RunCommand;
  readonly #folder: string;
  readonly #staged: string;

  /** @param folder the helper's own; @param staged the release's file in it, verified. */
  constructor(run: RunCommand, folder: string, staged: string) {
    this.#run = run;
    this.#folder = folder;
    this.#staged = staged;
  }

  /** @throws {ReleaseRefused} when the file is another package than the release says. */
  async check({ version, arch }: Release): Promise<void> {
    const says = (await this.#run("dpkg-deb", "-f", this.#staged, "Package", "Version", "Architecture")).trim();
    const expected = `Package: ${PACKAGE}\nVersion: ${version}\nArchitecture: ${arch}`;
    if (says !== expected) throw new ReleaseRefused("the package is not what its signed release says");
  }

  async version(): Promise<string> {
    return (await this.#run("dpkg-query", "-W", "-f", "${Version}", PACKAGE)).trim();
  }

  async keepPresent(): Promise<void> {
    const version = await this.version();
    const kept = this.#kept(version);
    if (existsSync(kept)) return;
    const tree = join(this.#folder, "repack");
    await rm(tree, { recursive: true, force: true });
    await this.#copyInstalled(tree);
    const fresh = `${kept}.new`;
    await this.#run("dpkg-deb", "--root-owner-group", "-Zgzip", "--build", tree, fresh);
    await this.#run("sync", fresh);
    await rename(fresh, kept);
    await this.#run("sync", this.#folder);
    await rm(tree, { recursive: true, force: true });
  }

  async install({ version }: Release): Promise<void> {
    await this.#dpkg(this.#staged);
    await copyFile(this.#staged, this.#kept(version));
  }

  async restore(version: string): Promise<void> {
    await this.#dpkg(this.#kept(version));
  }

  async tidy(): Promise<void> {
    const present = this.#kept(await this.version());
    for (const name of await readdir(this.#folder)) {
      const path = join(this.#folder, name);
      if (/\.deb(?:\.new)?$/u.test(name) && path !== present) await rm(path, { force: true });
    }
  }

  /** Waits for whoever else uses dpkg, such as the updates that Debian makes by itself. */
  async #dpkg(file: string): Promise<void> {
    const untilMs = performance.now() + LOCKED_FOR_MS;
    for (;;) {
      try {
        await this.#run("dpkg", ...QUIETLY, "-i", file);
        return;
      } catch (error) {
        const isLocked = error instanceof CommandFailed && /lock\b.*held by|unable to lock/iu.test(error.stderr);
        if (!isLocked || performance.now() > untilMs) throw error;
      }
      await sleep(LOCK_LOOK_MS);
    }
  }

  #kept(version: string): string {
    return join(this.#folder, `kept_${version}.deb`);
  }

  /** As dpkg-repack does. */
  async #copyInstalled(tree: string): Promise<void> {
    const paths = (await this.#run("dpkg-query", "-L", PACKAGE)).trim().split("\n");
    for (const path of paths.filter((path) => path !== "/." && existsSync(path))) {
      const into = join(tree, path);
      const stat = await lstat(path);
      if (stat.isDirectory()) await mkdir(into, { recursive: true, mode: stat.mode });
      else {
        await mkdir(dirname(into), { recursive: true });
        await cp(path, into, { verbatimSymlinks: true });
      }
    }
    const control = join(tree, "DEBIAN");
    await mkdir(control, { recursive: true });
    for (const name of CONTROL_FILES) {
      const from = join(DPKG_INFO, `${PACKAGE}.${name}`);
      if (existsSync(from)) await cp(from, join(control, name));
    }
    const status = await this.#run("dpkg-query", "-s", PACKAGE);
    await writeFile(join(control, "control"), controlOf(status));
    const conffiles = await readFile(join(control, "conffiles"), "utf8").catch(() => "");
    const there = conffiles.split("\n").filter((path) => path !== "" && existsSync(join(tree, path)));
    await writeFile(join(control, "conffiles"), there.map((path) => `${path}\n`).join(""));
  }
}

/** A package's control file, from what dpkg knows of an installed one. */
export function controlOf(status: string): string {
  const fields = status
    .trim()
    .split(/\n(?! )/u)
    .filter((field) => !/^(?:Status|Conffiles|Config-Version):/u.test(field));
  return `${fields.join("\n")}\n`;
}
