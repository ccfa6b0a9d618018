import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import ts from "typescript";
import { TestPlatform } from "../fixtures/at-platform.js";
import { compileProgram, environmentOf, root, SdkProgram } from "../fixtures/sdk-program.js";

t.test("the tutorial docs/start/sdk.md", async (t) => {
  const page = await readFile(join(root, "docs", "start", "sdk.md"), "utf8");
  const blocks = [...page.matchAll(/```(?<kind>ts|text)\n(?<body>[\s\S]*?)```/gu)].map(({ groups }) => ({
    kind: groups?.["kind"],
    body: groups?.["body"] ?? "",
  }));
  const code = blocks.flatMap(({ kind, body }) => (kind === "ts" ? [body] : [])).join("\n");
  const output = blocks.flatMap(({ kind, body }) => (kind === "text" ? body.trimEnd().split("\n") : []));
  const folder = t.testdir({ programs: {}, home: {}, state: {} });
  const file = join(folder, "programs", "tutorial.ts");
  await writeFile(file, code);

  await t.test("is strict TypeScript", async (t) => {
    const options = {
      strict: true,
      noEmit: true,
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
      target: ts.ScriptTarget.ES2022,
      module: ts.ModuleKind.ESNext,
      moduleResolution: ts.ModuleResolutionKind.Bundler,
      lib: ["lib.es2023.d.ts", "lib.esnext.disposable.d.ts"],
      types: ["node"],
      typeRoots: [join(root, "node_modules", "@types")],
      skipLibCheck: true,
      paths: { "atedge/atplatform": [join(root, "atplatform", "index.ts")] },
    };
    const program = ts.createProgram([file], options);
    const faults = ts
      .getPreEmitDiagnostics(program)
      .map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, "\n"));
    t.same(faults, []);
  });

  await t.test("prints what it says, against our own platform", async (t) => {
    await using platform = await TestPlatform.open(join(folder, "state"));
    await platform.onboard("@alice");
    await platform.onboard("@bob");
    const env = await environmentOf(platform, join(folder, "home"));
    await using program = new SdkProgram(await compileProgram(file, join(folder, "programs"), "tutorial"), env);
    t.equal(await program.end(), 0);
    t.same(program.lines, output);
  });
});
