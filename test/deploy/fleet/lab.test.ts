import { join } from "node:path";
import t from "tap";
import { Scope } from "../../../core/scope.js";
import { bundleCli } from "../../fixtures/bundled-cli.js";
import { runFleetLab } from "../../fixtures/lab/fleet-lab.js";
import { tempFolder } from "../../fixtures/temp-folder.js";

/** The short form of `npm run lab -- fleet`. */
t.test("with operator and platform killed, copies and forgeries: the right boards are in", async (t) => {
  const scope = new Scope();
  t.teardown(() => scope[Symbol.asyncDispose]());
  const cli = scope.use(await bundleCli());
  const seed = Date.now() % 1_000_000;
  t.comment(`seed ${seed}`);
  const checks = await runFleetLab({
    ...{ cli: cli.path, folder: join(tempFolder(t), "lab"), say: (line) => t.comment(line) },
    ...{ devices: 20, perAtSign: 10, kills: 2, seed, pollMs: 500 },
    limit: { requests: 6, frameMs: 2_500 },
  });
  for (const [what, isSo, seen] of checks) t.ok(isSo, what, { seen });
});
