import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { READING_STEPS, type Step, type StepMoment } from "../../core/steps.js";
import { formatReceipt } from "../../messages/receipt.js";
import { atKeyOf, receiptKey } from "../../messages/names.js";
import { seal } from "../../messages/seal.js";
import { bundleChild, compileShim } from "../fixtures/disk/shim.js";
import { PathWorld } from "../fixtures/faults/path-world.js";
import { ADDRESS, US } from "../fixtures/uplink/fake-world.js";

const fixtures = join(dirname(fileURLToPath(import.meta.url)), "../fixtures");
const build = mkdtempSync(join(tmpdir(), "atedge-faults-"));
t.teardown(() => rmSync(build, { recursive: true }));
const program = await bundleChild(join(fixtures, "faults/path-child.ts"), join(build, "path"));
const shim = await compileShim(build);

/** What the agent has to live through to pass a step, beside what it does anyway. */
interface Scene {
  readonly options?: Partial<ConstructorParameters<typeof PathWorld>[0]>;
  readonly env?: (folder: string) => NodeJS.ProcessEnv;
  readonly play?: (world: PathWorld) => Promise<unknown>;
  /** Store writes stand at three moments, calls at two. */
  readonly moments?: readonly StepMoment[];
}

const CALL: readonly StepMoment[] = ["before", "after"];
const WRITE: readonly StepMoment[] = ["before", "applied", "after"];

/** The atServer refuses an event for its own sake, until it is set aside. */
const poison = async (world: PathWorld): Promise<void> => {
  world.trouble = (value) => (value.includes('"class":"event"') && !value.includes('"gap"') ? "AT0005" : undefined);
  await world.publish(1, "event");
  for (let tries = 0; tries < 300 && !world.isGone; tries += 1) {
    const aside = (await world.ask("aside").catch(() => [])) as { readonly id: number }[];
    if (aside[0]) return;
    await sleep(50);
  }
};

const SCENES: Readonly<Record<(typeof READING_STEPS)[number], Scene>> = {
  "reading.insert": {},
  "reading.date": { options: { timeUnknown: true }, play: (world) => world.ask("know") },
  "reading.expire": {
    options: { outbox: { measurement: { maxAgeMs: 60_000 } } },
    play: async (world) => {
      world.linkUp = false;
      await world.publish(20);
      await world.ask("later", { ms: 120_000 });
    },
  },
  "pack.form": {},
  "pack.send": { moments: CALL },
  "pack.status": { options: { receipts: false }, moments: CALL },
  "pack.taken": {},
  "pack.aside": { play: poison },
  "pack.retry": {
    play: async (world) => {
      await poison(world);
      world.trouble = () => undefined;
      const [first] = (await world.ask("aside")) as { readonly id: number }[];
      await world.ask("retry", { id: first?.id });
    },
  },
  "aside.drop": {
    play: async (world) => {
      await poison(world);
      world.trouble = () => undefined;
      const [first] = (await world.ask("aside")) as { readonly id: number }[];
      await world.ask("drop", { id: first?.id });
    },
  },
  "stream.life": {
    play: async (world) => {
      await world.settle(3_000);
      for (const state of world.reader.states.values()) {
        const receipt = formatReceipt({ consumer: "keep", ...state, have: state.have + 100, missing: [] });
        await world.receipt(seal(receipt, atKeyOf(US, receiptKey(ADDRESS), world.reader.atSign), world.reader.aesKey));
      }
    },
  },
  "state.put": { moments: CALL },
  "proof.put": { moments: CALL },
  "monitor.save": { play: (world) => world.ask("save", { epochMillis: 5 }) },
  "store.upkeep": { play: (world) => world.ask("maintain") },
  "store.room": {
    env: (folder) => ({ LD_PRELOAD: shim, DISK_FOLDER: folder, DISK_QUOTA: String(6 << 20) }),
    play: async (world) => {
      world.linkUp = false;
      for (let n = 0; n < 400 && !world.isGone; n += 1) await world.publish(500);
      world.linkUp = true;
    },
  },
};

async function killedAt(step: Step, moment: StepMoment, scene: Scene, passes: number): Promise<string[]> {
  const folder = mkdtempSync(join(build, "state-"));
  const state = join(folder, "state");
  mkdirSync(state);
  const world = new PathWorld({ program, folder: state, ...scene.options });
  const env = scene.env?.(state) ?? {};
  await world.start({ ...env, ATEDGE_TEST_KILL_AT: `${step}:${moment}:${passes}` });
  const sensors = (async () => {
    for (let n = 0; n < 12 && !world.isGone; n += 1) {
      await world.publish(1, n % 4 === 0 ? "event" : "measurement");
      await world.report().catch(() => undefined);
    }
    await scene.play?.(world).catch(() => undefined);
    for (let n = 0; n < 300 && !world.isGone; n += 1) {
      await world.report().catch(() => undefined);
      await sleep(10);
    }
  })();
  await sensors;
  const faults: string[] = [];
  if (world.exit?.signal !== "SIGKILL") {
    faults.push(`it was not killed there: ${JSON.stringify(world.exit)} ${world.stderr.slice(-300)}`);
    await world.end();
  }
  world.linkUp = true;
  world.trouble = () => undefined;
  await world.start(env, { timeUnknown: false });
  for (let n = 0; n < 4; n += 1) await world.publish(1, n % 2 === 0 ? "event" : "measurement");
  if (!(await world.settle())) faults.push(`what is in the outbox does not go out; ${JSON.stringify(world.exit)}`);
  await world.end();
  if (world.accepted.size < 4) faults.push("nothing was accepted after the restart");
  faults.push(...world.faults());
  rmSync(folder, { recursive: true });
  return faults.map((fault) => `${step}:${moment}:${passes}: ${fault}`);
}

/** Before a write there is on the disk what was there after the one before; `npm run lab -- faults` kills there too. */
const momentsOf = ({ moments = WRITE }: Scene): readonly StepMoment[] =>
  process.env["ATEDGE_ALL_MOMENTS"] ? moments : moments.filter((moment) => moment !== "before");

t.test("killed at any step, the agent has delivered or declared all that it accepted", async (t) => {
  const only = process.env["ATEDGE_STEP"]; // to look at one
  const jobs = READING_STEPS.filter((step) => only === undefined || step === only).flatMap((step) =>
    momentsOf(SCENES[step]).map((moment) => () => killedAt(step, moment, SCENES[step], 0)),
  );
  const faults: string[] = [];
  const work = async (): Promise<void> => {
    for (let job = jobs.shift(); job; job = jobs.shift()) faults.push(...(await job()));
  };
  await Promise.all(Array.from({ length: 4 }, work));
  t.same(faults, []);
});
