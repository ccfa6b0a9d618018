import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { build } from "esbuild";
import t from "tap";
import { ChainCheck } from "../../agent/audit/chain.js";
import { STEPS } from "../../core/steps.js";

/** Steps that only a longer life, an operator or a peer's key brings about. */
const ELSEWHERE = new Set(["command.prune", "command.birth", "answer.aside", "audit.rotate", "config.keep", "pin.set"]);
const PATH = STEPS.filter((step) => /^(?:command|answer|audit|rule)\./u.test(step) && !ELSEWHERE.has(step));
const MOMENTS = ["before", "applied", "after"] as const;

interface Said {
  readonly run: string;
  readonly answer: { readonly respType: string; readonly payload: { readonly id?: string; readonly reason?: string } };
}

t.test("an agent that is killed at every step of the command path", { timeout: 240_000 }, async (t) => {
  const cache = join(process.cwd(), "node_modules", ".cache", "atedge");
  mkdirSync(cache, { recursive: true });
  const built = await mkdtemp(join(cache, "faults-"));
  t.teardown(() => rm(built, { recursive: true, force: true }));
  const outfile = join(built, "child.mjs");
  await build({
    entryPoints: ["test/fixtures/control/command-child.ts"],
    outfile,
    ...{ bundle: true, packages: "external", platform: "node", target: "node20", format: "esm", logLevel: "silent" },
  });

  const child = (folder: string, name: string, env: NodeJS.ProcessEnv = {}): Promise<string | number> =>
    new Promise((resolve, reject) => {
      const options = {
        env: { ...process.env, NODE_OPTIONS: "", ATEDGE_TEST_PARTIES: built, ...env },
        stdio: ["ignore", "ignore", "pipe"] as const,
      };
      const running = spawn(process.execPath, [outfile, folder, name], { ...options, stdio: [...options.stdio] });
      let err = "";
      running.stderr.on("data", (text: Buffer) => (err += text.toString()));
      running.on("error", reject);
      running.on("close", (code, signal) => {
        if (code !== 0 && signal === null) reject(new Error(err));
        else resolve(signal ?? code ?? 0);
      });
    });
  const linesOf = (path: string): string[] =>
    existsSync(path) ? readFileSync(path, "utf8").trimEnd().split("\n") : [];

  const clean = join(built, "clean");
  mkdirSync(clean);
  const trace = join(built, "trace");
  t.equal(await child(clean, "1", { ATEDGE_TEST_STEPS_FILE: trace }), 0);
  const passed = new Set(linesOf(trace));
  const kills = PATH.flatMap((step) => MOMENTS.map((moment) => `${step}:${moment}`)).filter((at) => passed.has(at));
  t.same(
    PATH.filter((step) => !passed.has(`${step}:before`) || !passed.has(`${step}:after`)),
    [],
    "a run passes every step of the path",
  );
  t.same(linesOf(join(clean, "acts")).sort(), ['{"by":"caller"}', '{"by":"rule"}'], "and acts once on each command");

  async function killedAt(at: string): Promise<void> {
    const folder = join(built, at.replaceAll(/[.:]/gu, "-"));
    mkdirSync(folder);
    t.equal(await child(folder, "killed", { ATEDGE_TEST_KILL_AT: at }), "SIGKILL", `${at}: killed`);
    t.equal(await child(folder, "second"), 0, `${at}: the next run ends well`);
    t.equal(await child(folder, "third"), 0, `${at}: and so does the one after`);

    const acts = linesOf(join(folder, "acts"));
    for (const by of ["caller", "rule"])
      t.ok(acts.filter((line) => line.includes(by)).length <= 1, `${at}: no command of the ${by} acted twice`);
    const said = linesOf(join(folder, "answers")).map((line) => JSON.parse(line) as Said);
    const final = said.filter(({ answer }) => answer.respType !== "ack");
    const outcomes = new Set(final.map(({ answer: { respType, payload } }) => `${respType} ${payload.reason ?? ""}`));
    t.equal(outcomes.size, 1, `${at}: every answer is the same: ${[...outcomes].join(", ")}`);
    t.ok(
      final.some(({ run }) => run === "third"),
      `${at}: a repeat is answered`,
    );
    const [outcome = ""] = outcomes;
    const acted = acts.some((line) => line.includes("caller"));
    if (outcome.startsWith("success")) t.ok(acted, `${at}: success is said when it was done`);
    else t.equal(outcome, "error unknown-outcome", `${at}: in between, nobody knows`);

    const check = new ChainCheck();
    for (const name of readdirSync(join(folder, "audit")).sort())
      for (const line of linesOf(join(folder, "audit", name))) check.add(line);
    t.equal(check.fault(), undefined, `${at}: the audit log holds`);
  }

  // Two at a time: the machine has two processors.
  const left = [...kills];
  const worker = async (): Promise<void> => {
    for (let at = left.shift(); at !== undefined; at = left.shift()) await killedAt(at);
  };
  await Promise.all([worker(), worker()]);
  t.comment(`${kills.length} kills: ${kills.join(" ")}`);
});
