import t from "tap";
import { recover, resume, update, type UpdaterParts, type UpdateState } from "../../deploy/update/updater.js";
import type { Release } from "../../deploy/update/release.js";
import type { UpdateOutcome } from "../../core/update-request.js";

/** How a release behaves once it is installed. */
type Behaviour = "good" | "crashes" | "never connects" | "does not install";

class PowerCut extends Error {
  override name = "PowerCut";
}

const OLD = "0.1.0";
const NEW = "0.2.0";
const release = (version: string): Release => ({
  typ: "atedge-release/1",
  version,
  kind: "deb",
  arch: "amd64",
  sha256: "0".repeat(64),
  bytes: 1,
});

/**
 * A machine: its disk survives a power cut, its running service does not. Each change of the disk is a step at which
 * the power may go, before it and after it; the exchange of the program has a step in the middle, too.
 */
class Machine {
  program: string = OLD;
  kept: string | undefined;
  state: UpdateState | undefined;
  outcome: Omit<UpdateOutcome, "atMs"> | undefined;
  runs: string | undefined = OLD;
  steps = 0;
  cutAt = Infinity;
  cutInTrial = false;
  readonly behaviour: Behaviour;

  constructor(behaviour: Behaviour) {
    this.behaviour = behaviour;
  }

  get parts(): UpdaterParts {
    return {
      journal: {
        load: async () => this.state,
        save: async (state) => this.step(() => (this.state = state)),
        tell: async (outcome) => this.step(() => (this.outcome = outcome)),
      },
      installation: {
        version: async () => this.program,
        keepPresent: async () => this.step(() => (this.kept = this.program)),
        install: async ({ version }) => {
          this.step(() => (this.program = "in pieces"));
          if (this.behaviour === "does not install") throw new Error("dpkg failed");
          this.step(() => (this.program = version));
          this.step(() => this.start());
        },
        restore: async (version) => {
          if (this.kept !== version) throw new Error(`${version} was not kept`);
          this.step(() => (this.program = "in pieces"));
          this.step(() => (this.program = version));
        },
        tidy: async () => this.step(() => (this.kept = this.program)),
      },
      services: {
        running: async () => (this.runs === undefined ? [] : ["atedge.service"]),
        restart: async () => this.step(() => this.start()),
        becomeHealthy: async (_, version) => {
          this.step(() => {});
          if (this.cutInTrial) throw new PowerCut();
          return this.runs === version && this.isFit(version);
        },
      },
    };
  }

  step(change: () => void): void {
    this.steps += 1;
    if (this.steps === this.cutAt) throw new PowerCut();
    change();
    this.steps += 1;
    if (this.steps === this.cutAt) throw new PowerCut();
  }

  isFit(version: string): boolean {
    return version === OLD || this.behaviour === "good";
  }

  start(): void {
    this.runs = this.program === NEW && this.behaviour === "crashes" ? undefined : this.program;
  }

  /** The start of the machine, as the units have it. */
  async boot(): Promise<void> {
    this.runs = undefined;
    await recover(this.parts);
    if (this.program === "in pieces") throw new Error("a program in pieces is started");
    this.start();
    await resume(this.parts);
  }
}

/** Runs an update with power cuts; after each the machine starts again. */
async function live(machine: Machine, cuts: readonly number[]): Promise<void> {
  const left = [...cuts];
  const attempt = async (work: () => Promise<unknown>): Promise<boolean> => {
    machine.steps = 0;
    machine.cutAt = left.shift() ?? Infinity;
    try {
      await work();
      return true;
    } catch (error) {
      if (error instanceof PowerCut) return false;
      throw error;
    }
  };
  if (await attempt(() => update(release(NEW), machine.parts))) return;
  while (!(await attempt(() => machine.boot())));
}

const BEHAVIOURS: readonly Behaviour[] = ["good", "crashes", "never connects", "does not install"];

t.test("an update without trouble", async (t) => {
  for (const behaviour of BEHAVIOURS) {
    const machine = new Machine(behaviour);
    await live(machine, []);
    const good = behaviour === "good";
    t.match(machine, { program: good ? NEW : OLD, runs: good ? NEW : OLD, state: undefined }, behaviour);
    t.match(machine.outcome, { outcome: good ? "installed" : "returned", from: OLD, to: NEW });
    if (!good) t.match(machine.outcome?.why, /could not be installed|in time/u);
  }
});

t.test("an older version, or the same, is refused and nothing changes", async (t) => {
  for (const version of ["0.0.9", OLD, "0.1.0-rc1"]) {
    const machine = new Machine("good");
    await t.rejects(update(release(version), machine.parts), { code: "RELEASE_REFUSED" });
    t.match(machine, { program: OLD, runs: OLD, state: undefined, steps: 0 });
  }
});

t.test("power cuts at each step, once and twice, leave one version that works", async (t) => {
  let runs = 0;
  for (const behaviour of BEHAVIOURS) {
    for (let first = 1; ; first += 1) {
      const once = new Machine(behaviour);
      await live(once, [first]);
      runs += 1;
      if (!isWell(once)) t.fail(`${behaviour}, cut at step ${first}: ${JSON.stringify(once)}`);
      for (let second = 1; second < 30; second += 1) {
        const twice = new Machine(behaviour);
        await live(twice, [first, second]);
        runs += 1;
        if (!isWell(twice)) t.fail(`${behaviour}, cut at steps ${first} and ${second}: ${JSON.stringify(twice)}`);
      }
      const whole = new Machine(behaviour);
      await live(whole, []);
      if (first > whole.steps) break;
    }
  }
  t.ok(runs > 1000, `${runs} runs`);

  function isWell({ program, runs, state, behaviour }: Machine): boolean {
    if (state !== undefined || runs !== program) return false;
    return program === OLD || (program === NEW && behaviour === "good");
  }
});

t.test("a trial in which the machine starts again and again ends with the old version", async (t) => {
  const machine = new Machine("good");
  machine.cutInTrial = true;
  await t.rejects(update(release(NEW), machine.parts), PowerCut);
  for (let boot = 1; boot <= 2; boot += 1) {
    await t.rejects(machine.boot(), PowerCut);
    t.match(machine.state, { phase: "trial", boots: boot });
  }
  await machine.boot();
  t.match(machine, { program: OLD, runs: OLD, state: undefined });
  t.match(machine.outcome, { outcome: "returned", why: "the machine was started again and again while it was tried" });
});
