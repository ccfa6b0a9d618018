import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { runCommand } from "./commands.js";
import { runHelper } from "./helper.js";

// `run` or `recover`, and the root of another tree than the machine's own.
const [what, root] = process.argv.slice(2);
const say = (text: string): void => void process.stdout.write(`${text}\n`);
await runHelper(what === "recover" ? "recover" : "run", {
  ...{ run: runCommand, program: fileURLToPath(import.meta.url), say },
  ...(root !== undefined && {
    folder: join(root, "var/lib/atedge-update"),
    requests: join(root, "var/lib/atedge/update"),
    config: join(root, "etc/atedge/update.toml"),
    library: join(root, "usr/lib/atedge"),
    runtimeDir: join(root, "run/atedge"),
  }),
});
