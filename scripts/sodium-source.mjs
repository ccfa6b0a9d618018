// libsodium's own source, from Debian's source package: the tests compile it for the Cortex-M. Needs no root, and leaves
// the machine's package lists alone: lists and files are in node_modules/.atedge/libsodium/. A second run does nothing.
// Plain JavaScript with `node:` imports only; setup.mjs runs it.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = join(dirname(fileURLToPath(import.meta.url)), "..", "node_modules", ".atedge", "libsodium");
if (!existsSync(join(folder, "source"))) {
  rmSync(folder, { recursive: true, force: true });
  for (const name of ["sources", "lists/partial", "cache/archives/partial", "unpacked"])
    mkdirSync(join(folder, name), { recursive: true });
  writeSources();
  const apt = [
    ["-o", "Dir::Etc::sourcelist=/dev/null"],
    ["-o", `Dir::Etc::sourceparts=${join(folder, "sources")}`],
    ["-o", `Dir::State::lists=${join(folder, "lists")}`],
    ["-o", `Dir::Cache=${join(folder, "cache")}`],
    ["-o", "APT::Sandbox::User=root"],
  ].flat();
  run("apt-get", [...apt, "-qq", "update"]);
  run("apt-get", [...apt, "-qq", "source", "--download-only", "libsodium"]);
  const archive = readdirSync(folder).find((name) => /^libsodium_.*\.orig\.tar\.[a-z0-9]+$/u.test(name));
  if (!archive) throw new Error("Debian's source package of libsodium has no archive");
  run("tar", ["xf", archive, "-C", "unpacked", "--strip-components=1"]);
  for (const name of ["lists", "cache"]) rmSync(join(folder, name), { recursive: true });
  renameSync(join(folder, "unpacked"), join(folder, "source"));
}

/** The machine's own sources, as sources of source packages. */
function writeSources() {
  const parts = "/etc/apt/sources.list.d";
  const files = existsSync(parts) ? readdirSync(parts).map((name) => join(parts, name)) : [];
  for (const [index, file] of [...files, "/etc/apt/sources.list"].entries()) {
    if (!existsSync(file)) continue;
    const text = readFileSync(file, "utf8");
    if (file.endsWith(".sources"))
      writeFileSync(join(folder, "sources", `${index}.sources`), text.replace(/^Types:.*$/gmu, "Types: deb-src"));
    else if (file.endsWith(".list"))
      writeFileSync(join(folder, "sources", `${index}.list`), text.replace(/^deb\s/gmu, "deb-src "));
  }
}

function run(program, args) {
  const { status, stderr, error } = spawnSync(program, args, { cwd: folder, encoding: "utf8" });
  if (status !== 0) throw new Error(`${program} ${args.at(-1)}: ${error?.message ?? stderr}`);
}
