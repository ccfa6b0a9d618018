import { lstat, mkdir, readdir, readFile, readlink, rename, rm, symlink } from "node:fs/promises";
import { basename, join } from "node:path";
import type { RunCommand } from "./commands.js";
import type { Release } from "./release.js";
import type { Installation } from "./updater.js";

/**
 * A folder a version, and a link `current` to the one that runs: `/opt/atedge/0.2.0`, `/opt/atedge/current`. The units
 * start `/usr/lib/atedge`, which is a link to `/opt/atedge/current` on such a machine.
 */
export class FolderInstallation implements Installation {
  readonly #run: RunCommand;
  readonly #folder: string;
  readonly #staged: string;
  readonly #restart: () => Promise<void>;

  constructor(run: RunCommand, folder: string, staged: string, restart: () => Promise<void>) {
    this.#run = run;
    this.#folder = folder;
    this.#staged = staged;
    this.#restart = restart;
  }

  async version(): Promise<string> {
    return basename(await readlink(join(this.#folder, "current")));
  }

  /** Versions stay where they are. */
  async keepPresent(): Promise<void> {
    await lstat(join(this.#folder, await this.version()));
  }

  async install({ version }: Release): Promise<void> {
    const fresh = join(this.#folder, `${version}.new`);
    const into = join(this.#folder, version);
    await rm(fresh, { recursive: true, force: true });
    await rm(into, { recursive: true, force: true });
    await mkdir(fresh);
    await this.#run("tar", "-xzf", this.#staged, "-C", fresh, "--no-same-owner", "--no-same-permissions");
    const { version: found } = JSON.parse(await readFile(join(fresh, "package.json"), "utf8")) as {
      readonly version?: unknown;
    };
    if (found !== version) throw new Error(`the archive holds version ${String(found)}`);
    await this.#run("sync", "-f", fresh);
    await rename(fresh, into);
    await this.#point(version);
    await this.#restart();
  }

  async restore(version: string): Promise<void> {
    await this.#point(version);
  }

  async tidy(): Promise<void> {
    const present = await this.version();
    const others = (await readdir(this.#folder)).filter((name) => name !== "current" && name !== present);
    const olderFirst = others.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    // One more is kept, for a return by hand.
    for (const name of olderFirst.slice(0, -1)) await rm(join(this.#folder, name), { recursive: true, force: true });
  }

  async #point(version: string): Promise<void> {
    const fresh = join(this.#folder, "current.new");
    await rm(fresh, { force: true });
    await symlink(version, fresh);
    await rename(fresh, join(this.#folder, "current"));
    await this.#run("sync", this.#folder);
  }
}
