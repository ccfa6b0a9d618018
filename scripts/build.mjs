// Bundles the command and the demo's programs into dist/.
import { renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { bundle } from "./bundle.mjs";
import { installedAddons } from "./native-addons.mjs";

const dist = join(dirname(fileURLToPath(import.meta.url)), "..", "dist");
// Built beside and moved into place, so that a build that fails leaves the last good one.
const staging = `${dist}.new`;
const { bytes, files } = await bundle({ outdir: staging, addons: installedAddons(), demo: true });
rmSync(dist, { recursive: true, force: true });
renameSync(staging, dist);
process.stdout.write(`dist/: ${(bytes / 1e6).toFixed(2)} MB of JavaScript in ${files} files\n`);
