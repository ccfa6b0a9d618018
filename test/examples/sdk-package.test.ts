import { execFile } from "node:child_process";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import t from "tap";
import { root } from "../fixtures/sdk-program.js";

const run = promisify(execFile);
// What tap adds is not for others.
const env = { ...process.env, NODE_OPTIONS: "" };
const node = async (args: readonly string[], cwd: string): Promise<string> =>
  (await run(process.execPath, args, { cwd, env })).stdout;

const consumer = `
import { type AtClient, AtServerError, openAtClient, parseAtSign, readAtKeysFile, Sync, MemorySyncStore } from "atedge-atplatform";

export async function tell(path: string): Promise<string> {
  const signal = AbortSignal.timeout(1_000);
  const keys = await readAtKeysFile(path);
  const directory = { kind: "directory", host: "root.example", port: 64 } as const;
  const client: AtClient = await openAtClient({ atSign: parseAtSign("@alice"), keys, directory }, signal);
  const sync = new Sync({ client, store: new MemorySyncStore() });
  const report = await sync.once(signal);
  // @ts-expect-error a number is no atSign
  await client.notify({ to: 5, key: "a.demo", ttlnMs: 1 }, signal);
  try {
    return await client.notify({ to: parseAtSign("@bob"), key: "a.demo", ttlnMs: report.pulled }, signal);
  } catch (error) {
    return error instanceof AtServerError ? error.remedy : "other";
  }
}
`;

t.test("the SDK as a package of its own", async (t) => {
  const folder = t.testdir({ consumer: { "package.json": '{"type":"module","private":true}' } });
  const there = join(folder, "consumer");
  await node([join(root, "scripts", "pack-sdk.mjs"), "--pack", folder], root);
  const tarball = (await readdir(folder)).find((name) => name.endsWith(".tgz")) ?? "";
  await run("npm", ["install", "--offline", "--no-audit", "--no-fund", join(folder, tarball)], { cwd: there, env });

  await t.test("installs without a network and brings nothing with it", async (t) => {
    const installed = (await readdir(join(there, "node_modules"))).filter((name) => !name.startsWith("."));
    t.same(installed, ["atedge-atplatform"]);
    const text = await readFile(join(there, "node_modules", "atedge-atplatform", "package.json"), "utf8");
    const manifest = JSON.parse(text) as Record<string, unknown>;
    t.equal(manifest["dependencies"], undefined);
    t.same(Object.keys(manifest["exports"] as object), ["."]);
    const files = await readdir(join(there, "node_modules", "atedge-atplatform"), { recursive: true });
    t.notOk(files.some((name) => /sqlite|serialport|mqtt|atplatform\/(?:server|directory)\//u.test(name)));
    t.ok(
      (await readFile(join(there, "node_modules", "atedge-atplatform", "README.md"), "utf8")).includes("openAtClient"),
    );
  });

  await t.test("is imported by a plain Node process, and knows where it is not", async (t) => {
    const program = `
      import * as sdk from "atedge-atplatform";
      const text = await sdk.wrapAtKeys(new sdk.Secret("{}"), new sdk.Secret("abc"), "compatible");
      console.log(sdk.parseAtSign("Alice"), typeof sdk.openAtClient, await sdk.unwrapAtKeys(text, new sdk.Secret("abc")));
    `;
    t.equal(await node(["--input-type=module", "-e", program], there), "@alice function {}\n");
  });

  await t.test("has types that hold for a strict consumer", async (t) => {
    await writeFile(join(there, "consumer.ts"), consumer);
    const tsc = join(root, "node_modules", "typescript", "bin", "tsc");
    const strict = [
      "--strict",
      "--noEmit",
      "--exactOptionalPropertyTypes",
      "--module",
      "nodenext",
      "--target",
      "es2022",
    ];
    const types = ["--lib", "es2023,esnext.disposable", "--types", "node"];
    const typeRoots = ["--typeRoots", join(root, "node_modules", "@types")];
    const out = await node([tsc, ...strict, ...types, ...typeRoots, "consumer.ts"], there).catch((error: unknown) =>
      String((error as { stdout: unknown }).stdout),
    );
    t.equal(out, "");
  });

  await t.test("is what users of the whole package import as atedge/atplatform", async (t) => {
    const program = `import { parseAtSign } from "atedge/atplatform"; console.log(parseAtSign("@bob"));`;
    t.equal(await node(["--input-type=module", "-e", program], root), "@bob\n");
  });
});
