import { build } from "esbuild";
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import nacl from "tweetnacl";
import { codeOf } from "../../core/errors.js";
import { signManifest } from "../../firmware-bridge/update/manifest.js";
import { UPDATE_ENDS, UPDATE_STEPS } from "../../firmware-bridge/update/update-store.js";
import { BoardProcess, imageOf, installImage } from "./board-process.js";
import { Host } from "./link-rig.js";

/** What goes wrong: the agent's process, the board's power, the cable, a byte on the agent's disk, one in the board's flash. */
export const FAULTS = ["kill", "power", "cable", "disk", "flash"] as const;
export type Fault = (typeof FAULTS)[number];
export type Way = "update" | "rollback";
export type Step = (typeof UPDATE_STEPS)[number];

export interface Case {
  readonly way: Way;
  readonly step: Step;
  readonly fault: Fault;
  /** After the step was reached. */
  readonly delayMs?: number;
}

/** Every fault at every step of an update, and those of a roll-back, which has no image to receive. */
export const CASES: readonly Case[] = [
  ...UPDATE_STEPS.flatMap((step) => FAULTS.map((fault) => ({ way: "update" as const, step, fault }))),
  ...(["uploaded", "tested", "probed"] as const).flatMap((step) =>
    (["kill", "power", "cable"] as const).map((fault) => ({ way: "rollback" as const, step, fault })),
  ),
];

export interface Result {
  /** The board runs neither firmware, does not answer, or the end that was told is another one. Empty when all is well. */
  readonly faults: readonly string[];
  readonly end: string;
  readonly hit: boolean;
}

const signer = nacl.sign.keyPair();
const firmware = { keys: [Buffer.from(signer.publicKey).toString("base64")], selfTest: "self-test" };
const PIECE_BYTES = 4096;
const ENDS: ReadonlySet<string> = new Set(UPDATE_ENDS);

/** The agent of `update-child.ts`, built once. */
export async function buildUpdateChild(): Promise<string> {
  const outfile = join(process.cwd(), "node_modules", ".atedge", `update-child-${process.pid}.mjs`);
  await build({
    entryPoints: ["test/firmware-bridge/update-child.ts"],
    outfile,
    bundle: true,
    packages: "external",
    platform: "node",
    target: "node20",
    format: "esm",
  });
  return outfile;
}

/** The agent as a process that may be killed; what is asked of it is asked again by its next life. */
class Agent implements AsyncDisposable {
  readonly #start: () => ChildProcessWithoutNullStreams;
  #child: ChildProcessWithoutNullStreams;
  #calls = 0;
  readonly #answers = new Map<string, (outcome: Outcome) => void>();
  onStep: (step: string) => void = () => undefined;

  constructor(start: () => ChildProcessWithoutNullStreams) {
    this.#start = start;
    this.#child = this.#live();
  }

  #live(): ChildProcessWithoutNullStreams {
    const child = this.#start();
    child.stdin.on("error", () => undefined);
    createInterface({ input: child.stdout }).on("line", (line) => {
      const [what, id = "", ...rest] = line.split(" ");
      if (what === "step") this.onStep(id);
      if (what === "answer") this.#answers.get(id)?.(JSON.parse(rest.join(" ")) as Outcome);
    });
    return child;
  }

  async kill(): Promise<void> {
    const closed = new Promise((resolve) => this.#child.once("close", resolve));
    this.#child.kill("SIGKILL");
    await closed;
    for (const give of this.#answers.values()) give({ refused: "AWAY" });
  }

  async restart(): Promise<void> {
    await this.kill();
    this.#child = this.#live();
  }

  cut(ms: number): void {
    this.#child.stdin.write(`cut ${ms}\n`);
  }

  async once(command: string, args: object = {}): Promise<Outcome> {
    const id = String((this.#calls += 1));
    const answered = new Promise<Outcome>((resolve) => this.#answers.set(id, resolve));
    this.#child.stdin.write(`call ${id} ${command} ${JSON.stringify(args)}\n`);
    const outcome = await Promise.race([answered, sleep(8000, { refused: "AWAY" })]);
    this.#answers.delete(id);
    return outcome;
  }

  /** Until it is there, for so long. */
  async call(command: string, args: object = {}, withinMs = 40_000): Promise<Outcome> {
    const endMs = performance.now() + withinMs;
    for (;;) {
      const outcome = await this.once(command, args);
      const isAway = outcome.refused !== undefined && outcome.refused !== "COMMAND_REFUSED";
      if (!isAway || performance.now() > endMs) return outcome;
      await sleep(50);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) await this.kill();
  }
}

interface Outcome {
  readonly result?: unknown;
  readonly refused?: string;
  readonly message?: string;
}

interface Update {
  readonly step: string;
  readonly reason?: string;
}

/** One update or roll-back with one fault, from a paired board that runs 1.0.0 to the end and a last power cut. */
export async function runCase(program: string, { way, step, fault, delayMs = 0 }: Case): Promise<Result> {
  const host = await Host.create();
  const options = { args: ["-r", "0", "-T", "20000"] };
  let board = await BoardProcess.start(options);
  const { folder } = board;
  try {
    await host.pair(board);
    await board.kill();
    await installImage(folder, imageOf("G", "1.0.0"));
    board = await BoardProcess.start({ ...options, folder });
    const config = { id: "board", type: "link", path: board.path, baud: 1_000_000, firmware };
    const times = { keepAliveMs: 300, openTimeoutMs: 3000 };
    const argv = [program, host.folder, JSON.stringify({ ...config, ...times })];
    await using agent = new Agent(() =>
      spawn(process.execPath, argv, { env: { ...process.env, NODE_OPTIONS: undefined } }),
    );
    const powerCut = async (): Promise<void> => {
      await board.kill();
      board = await BoardProcess.start({ ...options, folder });
    };
    const harm = async (): Promise<void> => {
      await sleep(delayMs);
      if (fault === "kill") await agent.restart();
      else if (fault === "power") await powerCut();
      else if (fault === "cable") agent.cut(1200);
      else if (fault === "disk") await flip(join(host.folder, "firmware.bin"));
      else await flip(join(folder, "slot1.bin"));
    };
    if (way === "rollback") {
      await push(agent, "G", () => undefined);
      await endOf(agent);
    }
    let harmed: Promise<void> | undefined;
    const reached = (name: string): void => {
      if (name === step) harmed ??= harm();
    };
    // "receiving" is reached before a byte is there; the fault comes after the first piece.
    agent.onStep = (name) => name !== "receiving" && reached(name);
    if (way === "rollback") await agent.call("firmware-rollback");
    else await push(agent, step === "reverting" ? "S" : "G", () => reached("receiving"));
    const update = await endOf(agent);
    await harmed;

    const faults: string[] = [];
    const wanted = expected(way, update.step);
    const told = runningOf(board);
    if (told !== wanted) faults.push(`${update.step} (${update.reason ?? ""}), but ${told} runs`);
    const answers = async (when: string): Promise<void> => {
      let outcome = await agent.call("self-test");
      // The link may be on its way out when it is asked.
      for (let tries = 0; outcome.result === undefined && tries < 10; tries += 1) {
        await sleep(500);
        outcome = await agent.call("self-test");
      }
      if (outcome.result !== "passed") faults.push(`${when} the board answers ${JSON.stringify(outcome)}`);
    };
    await answers("at the end");
    await powerCut();
    const last = runningOf(board);
    // A flash that rots under a confirmed image is the boot loader's: it has the other one.
    const stays = fault === "flash" ? last === "1.0.0" || last === "2.0.0" : last === wanted;
    if (!stays) faults.push(`${last} runs after a power cut`);
    await answers("after a power cut");
    const code = await board.end();
    if (code !== 0) faults.push(`a sanitizer spoke: ${board.errors}`);
    return { faults, end: update.step, hit: harmed !== undefined };
  } finally {
    await board[Symbol.asyncDispose]();
    await host[Symbol.asyncDispose]();
    await rm(folder, { recursive: true, force: true });
  }
}

/** Runs cases, some at once: nearly all of their time is waiting. */
export async function runCases(
  program: string,
  cases: readonly Case[],
  atOnce: number,
  onResult: (done: Case, result: Result) => void,
): Promise<void> {
  const left = [...cases];
  const work = async (): Promise<void> => {
    for (let next = left.shift(); next; next = left.shift()) onResult(next, await outcomeOf(program, next));
  };
  await Promise.all(Array.from({ length: atOnce }, work));
}

/** No end within its time is a fault like others. */
function outcomeOf(program: string, one: Case): Promise<Result> {
  return runCase(program, one).catch((error: unknown) => ({ faults: [String(error)], end: "none", hit: true }));
}

function expected(way: Way, end: string): string {
  const isNew = end === "confirmed";
  return (way === "update") === isNew ? "2.0.0" : "1.0.0";
}

/** As an operator does: whatever is lost on the way, the device is asked where to go on. */
async function push(agent: Agent, behaviour: "G" | "S", onPiece: () => void): Promise<void> {
  const image = imageOf(behaviour, "2.0.0", 20_000);
  const sha256 = createHash("sha256").update(image).digest("hex");
  const about = { target: "board", hardware: "host-board", version: "2.0.0", sha256, size: image.length, counter: 1 };
  const signed = signManifest(about, signer.secretKey);
  const offsetOf = ({ result }: Outcome): number | undefined => (result as { offset?: number } | undefined)?.offset;
  let offset = offsetOf(await agent.call("firmware-begin", signed)) ?? 0;
  while (offset < image.length) {
    const data = Buffer.from(image.subarray(offset, offset + PIECE_BYTES)).toString("base64");
    const outcome = await agent.once("firmware-data", { offset, data });
    onPiece();
    const again = offsetOf(outcome);
    if (again !== undefined) offset = again;
    else if (outcome.refused === "COMMAND_REFUSED")
      return; // it has it all, and is further
    else offset = offsetOf(await agent.call("firmware-begin", signed)) ?? image.length;
  }
}

async function endOf(agent: Agent): Promise<Update> {
  const endMs = performance.now() + 60_000;
  for (;;) {
    const outcome = await agent.call("firmware-status");
    const { update } = (outcome.result ?? {}) as { readonly update?: Update };
    if (update && ENDS.has(update.step)) return update;
    if (performance.now() > endMs) throw new Error(`no end: ${JSON.stringify(outcome)}`);
    await sleep(50);
  }
}

/** The version that the board started with last. */
const runningOf = (board: BoardProcess): string =>
  board.lines.flatMap((line) => /^boot slot=\d version=(\S+)/u.exec(line)?.[1] ?? []).at(-1) ?? "nothing";

/** Changes a byte in the middle of a file, if it is there. */
async function flip(path: string): Promise<void> {
  try {
    const bytes = await readFile(path);
    const at = Math.floor(bytes.length / 2);
    bytes[at] = (bytes[at] ?? 0) ^ 0xff;
    if (bytes.length > 0) await writeFile(path, bytes, { flag: "r+" });
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error; // it is gone, or goes right now
  }
}
