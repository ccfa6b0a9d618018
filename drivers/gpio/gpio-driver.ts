import { CommandRefused, CommandUncertain } from "../../core/command-errors.js";
import type { Driver, DriverDeps, OpenDriver, Reading } from "../../core/driver.js";
import { codeOf, DeviceGone } from "../../core/errors.js";
import { ChildSignal, untilAborted } from "../../core/scope.js";
import { commandNamed } from "../configured-command.js";
import { InOrder } from "../in-order.js";
import { within } from "../within.js";
import type { GpioConfig, GpioInput, GpioOutput } from "./config.js";
import { GpiodTools, GpioUnusable, parseEdge, type HeldTool, type LineGroup, type LineInfo } from "./gpiod-tools.js";

const SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin";
/** Readings on their way into the outbox at most; then the monitor's output is not read. */
const MAX_PENDING = 256;
/** Between starting `gpioset` and the line showing as driven. */
const DRIVEN_WITHIN_MS = 3000;
const LOOK_AGAIN_MS = 10;

/** Lines of a GPIO chip, by the keys of {@link GpioConfig}. */
export const openGpio: OpenDriver<GpioConfig> = (config, deps, signal) =>
  openGpioWith(SYSTEM_PATH)(config, deps, signal);

/** The same with the tools of another search path. */
export function openGpioWith(path: string): OpenDriver<GpioConfig> {
  return async (config, deps, signal) => {
    const tools = await GpiodTools.find(path, signal);
    const lines = await tools.lines(signal);
    const inputs = config.input.map((input) => new Input(input, lineOf(input.line, config.chip, lines)));
    const outputs = config.output.map((output) => new Output(output, lineOf(output.line, config.chip, lines), tools));
    const driver = new GpioDriver(config, deps, tools, inputs, outputs);
    try {
      await driver.setInitial(signal);
      return driver;
    } catch (error) {
      await driver[Symbol.asyncDispose]();
      throw error;
    }
  };
}

/** @throws {DeviceGone} when there is no such line, {GpioUnusable} when several have the name. */
function lineOf(line: number | string, chip: string | undefined, lines: readonly LineInfo[]): LineInfo {
  const where = typeof line === "number" ? (chip ?? "gpiochip0") : chip;
  const fitting = lines.filter((info) => {
    if (where !== undefined && info.chip !== where) return false;
    return typeof line === "number" ? info.offset === line : info.name === line;
  });
  const [first, second] = fitting;
  if (!first) throw new DeviceGone(`there is no line ${line}${where === undefined ? "" : ` on ${where}`}`);
  if (second) throw new GpioUnusable(`several lines are called ${line}; name the chip or the number`);
  return first;
}

/** A line that is read. `high` turns into on and off by `activeLow`. */
class Input {
  readonly config: GpioInput;
  readonly line: LineInfo;
  /** As last published. */
  on: boolean | undefined;
  /** As the last edge left it, before it has settled. */
  latest: boolean | undefined;
  changedAtMs = 0;
  lastEdgeMs = 0;
  settling = false;

  constructor(config: GpioInput, line: LineInfo) {
    this.config = config;
    this.line = line;
  }

  isOn(high: boolean): boolean {
    return high !== this.config.activeLow;
  }
}

/** A line that is driven by a process of its own, since that is what holds it. */
class Output {
  readonly config: GpioOutput;
  readonly #line: LineInfo;
  readonly #tools: GpiodTools;
  #held: { readonly on: boolean; readonly tool: HeldTool } | undefined;

  constructor(config: GpioOutput, line: LineInfo, tools: GpiodTools) {
    this.config = config;
    this.#line = line;
    this.#tools = tools;
  }

  /** Resolves when a process that drives the line has ended by itself. */
  async failed(): Promise<DeviceGone> {
    const tool = this.#held?.tool;
    if (!tool) return new Promise<never>(() => undefined);
    await tool.ended;
    return this.#held?.tool === tool ? tool.failure() : this.failed();
  }

  /** @throws {GpioUnusable} when the line cannot be driven. */
  async set(on: boolean, deps: DriverDeps, signal: AbortSignal): Promise<void> {
    const { bias, drive, activeLow } = this.config;
    await this.release();
    const holder = (await this.#info(signal))?.consumer;
    if (holder !== undefined) throw new GpioUnusable(`line ${this.config.line} is held by ${holder}`);
    const tool = this.#tools.drive(this.#line, bias, drive, on !== activeLow);
    this.#held = { on, tool };
    const driven = async (inner: AbortSignal): Promise<void> => {
      while (tool.running) {
        if (await this.#isDriven(inner)) return;
        await deps.clock.sleep(LOOK_AGAIN_MS, inner);
      }
      throw new GpioUnusable(tool.failure().message);
    };
    await within(driven, { ms: DRIVEN_WITHIN_MS, clock: deps.clock, what: `set ${this.config.name}` }, signal);
  }

  /** What the line is driven to; `null` when it is not. */
  async get(signal: AbortSignal): Promise<boolean | null> {
    const held = this.#held;
    return held?.tool.running && (await this.#isDriven(signal)) ? held.on : null;
  }

  get isDriven(): boolean {
    return this.#held?.tool.running === true;
  }

  async release(): Promise<void> {
    const held = this.#held;
    this.#held = undefined;
    await held?.tool.stop();
  }

  async #isDriven(signal: AbortSignal): Promise<boolean> {
    const info = await this.#info(signal);
    return info?.isOutput === true && info.consumer?.startsWith("gpioset") === true;
  }

  async #info(signal: AbortSignal): Promise<LineInfo | undefined> {
    const { chip, offset } = this.#line;
    const lines = await this.#tools.lines(signal);
    return lines.find((line) => line.chip === chip && line.offset === offset);
  }
}

class GpioDriver implements Driver {
  readonly id: string;
  readonly readings: NonNullable<Driver["readings"]>;
  readonly commands: Driver["commands"];
  readonly #config: GpioConfig;
  readonly #deps: DriverDeps;
  readonly #tools: GpiodTools;
  readonly #inputs: readonly Input[];
  readonly #outputs: readonly Output[];
  readonly #switched = new Set<() => void>();
  #edges = 0;
  #bounces = 0;

  constructor(
    config: GpioConfig,
    deps: DriverDeps,
    tools: GpiodTools,
    inputs: readonly Input[],
    outputs: readonly Output[],
  ) {
    const lines = [...config.input, ...config.output];
    this.id = config.id;
    this.readings = lines.map(({ name, class: readingClass }) => ({ name, type: "boolean", class: readingClass }));
    this.commands = commandsOf(config);
    this.#config = config;
    this.#deps = deps;
    this.#tools = tools;
    this.#inputs = inputs;
    this.#outputs = outputs;
  }

  /** `bounces` are edges that came and went within the time of `debounceMs`. */
  counters(): Readonly<Record<string, number>> {
    return { edges: this.#edges, bounces: this.#bounces };
  }

  async setInitial(signal: AbortSignal): Promise<void> {
    for (const output of this.#outputs) {
      if (output.config.initial !== undefined) await output.set(output.config.initial, this.#deps, signal);
    }
  }

  async run(stop: AbortSignal): Promise<void> {
    await using session = new ChildSignal(stop);
    const fail = (error: unknown): void => session.abort(error);
    const pending = new InOrder(fail);
    const tasks = [
      ...groupsOf(this.#inputs).map((inputs) => this.#watch(inputs, pending, session.signal)),
      this.#guardOutputs(session.signal),
      this.#publishOutputs(pending),
    ].map((task) => task.catch(fail));
    await untilAborted(new Promise<never>(() => undefined), session.signal).catch(() => undefined);
    await Promise.all(tasks);
    if (!stop.aborted) throw session.signal.reason;
  }

  async call(name: string, args: Readonly<Record<string, unknown>>, signal: AbortSignal): Promise<unknown> {
    commandNamed(this.commands, name);
    const line = args["line"];
    const output = this.#outputs.find(({ config }) => config.name === line);
    if (name === "get") {
      const input = this.#inputs.find(({ config }) => config.name === line);
      if (!input && !output) throw new CommandRefused("line: expected a configured line");
      return { on: input ? (input.latest ?? null) : ((await output?.get(signal)) ?? null) };
    }
    const on = args["on"];
    if (!output || typeof on !== "boolean") throw new CommandRefused("line: expected a configured output");
    const wasDriven = output.isDriven;
    try {
      await output.set(on, this.#deps, signal);
    } catch (cause) {
      const text = cause instanceof Error ? cause.message : String(cause);
      // A line that was not driven by us is as it was; one that was has been released first.
      if (codeOf(cause) === "GPIO_UNUSABLE" && !wasDriven) throw new CommandRefused(text, { cause });
      throw new CommandUncertain(text, { cause });
    }
    for (const wake of this.#switched) wake();
    await this.#deps.publish([this.#reading(output.config, on, this.#deps.clock.now())]);
    return { on };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#outputs.map((output) => output.release()));
  }

  /** Reads the lines, then waits for edges, again and again: the lines belong to one tool at a time. */
  async #watch(inputs: readonly Input[], pending: InOrder, signal: AbortSignal): Promise<void> {
    const [first] = inputs;
    if (!first) return;
    const { chip } = first.line;
    const group: LineGroup = { chip, bias: first.config.bias, offsets: inputs.map(({ line }) => line.offset) };
    while (!signal.aborted) {
      const high = await this.#tools.read(group, signal);
      const timeMs = this.#deps.clock.now();
      this.#publish(
        inputs.map((input, at) => {
          input.on = input.latest = input.isOn(high[at] === true);
          return this.#reading(input.config, input.on, timeMs);
        }),
        pending,
      );
      await this.#monitor(group, inputs, pending, signal);
    }
  }

  async #monitor(group: LineGroup, inputs: readonly Input[], pending: InOrder, signal: AbortSignal): Promise<void> {
    await using round = new ChildSignal(signal);
    const monitor = this.#tools.monitor(group);
    const due = this.#deps.clock.sleep(this.#config.rereadMs, round.signal).then(
      () => true,
      () => false,
    );
    const wasDue = due.finally(() => monitor.stop());
    try {
      for await (const line of monitor.lines()) {
        const edge = parseEdge(line);
        const input = edge && inputs.find(({ line }) => line.offset === edge.offset);
        if (input) this.#edge(input, input.isOn(edge.high), pending, signal);
        await pending.atMost(MAX_PENDING, signal);
      }
      await monitor.ended;
      round.abort();
      if (!(await wasDue)) throw monitor.failure();
    } finally {
      round.abort();
      await wasDue;
    }
  }

  #edge(input: Input, on: boolean, pending: InOrder, signal: AbortSignal): void {
    this.#edges += 1;
    input.latest = on;
    input.lastEdgeMs = this.#deps.clock.monotonicMs();
    if (input.settling) return;
    input.changedAtMs = this.#deps.clock.now();
    if (input.config.debounceMs === 0) return this.#settled(input, pending);
    input.settling = true;
    const settle = async (): Promise<void> => {
      const { clock } = this.#deps;
      const rest = (): number => input.lastEdgeMs + input.config.debounceMs - clock.monotonicMs();
      for (let ms = rest(); ms > 0; ms = rest()) await clock.sleep(Math.ceil(ms), signal);
      input.settling = false;
      this.#settled(input, pending);
    };
    settle().catch(() => undefined); // ends with the session
  }

  #settled(input: Input, pending: InOrder): void {
    const { latest, on, config } = input;
    // Without debouncing every edge counts: two of one kind in a row tell that one between them was missed.
    if (latest === undefined || (latest === on && config.debounceMs > 0)) {
      this.#bounces += 1;
      return;
    }
    input.on = latest;
    this.#publish([this.#reading(config, latest, input.changedAtMs)], pending);
  }

  #publish(readings: readonly Reading[], pending: InOrder): void {
    pending.add(this.#deps.publish(readings), 1, () => undefined);
  }

  /** What `initial` has set. */
  async #publishOutputs(pending: InOrder): Promise<void> {
    const timeMs = this.#deps.clock.now();
    const readings = this.#outputs.flatMap(({ config }) =>
      config.initial === undefined ? [] : [this.#reading(config, config.initial, timeMs)],
    );
    if (readings.length > 0) this.#publish(readings, pending);
  }

  /** @throws {DeviceGone} when something else than a command has ended the tool that holds an output. */
  async #guardOutputs(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      let wake: () => void = () => undefined;
      const switched = new Promise<undefined>((resolve) => (wake = () => resolve(undefined)));
      this.#switched.add(wake);
      const failed = this.#outputs.map((output) => output.failed());
      try {
        const failure = await untilAborted(Promise.race([switched, ...failed]), signal);
        if (failure) throw failure;
      } finally {
        this.#switched.delete(wake);
      }
    }
  }

  #reading({ name, class: readingClass }: GpioInput | GpioOutput, value: boolean, timeMs: number): Reading {
    return { name, value, timeMs, class: readingClass };
  }
}

function groupsOf(inputs: readonly Input[]): Input[][] {
  const groups = new Map<string, Input[]>();
  for (const input of inputs) {
    const key = `${input.line.chip} ${input.config.bias}`;
    groups.set(key, [...(groups.get(key) ?? []), input]);
  }
  return [...groups.values()];
}

function commandsOf({ input, output }: GpioConfig): Driver["commands"] {
  const schema = (lines: readonly { readonly name: string }[], more: object): Record<string, unknown> => ({
    type: "object",
    properties: { line: { type: "string", enum: lines.map(({ name }) => name) }, ...more },
    required: ["line", ...Object.keys(more)],
    additionalProperties: false,
  });
  const get = { name: "get", idempotent: true, argsSchema: schema([...input, ...output], {}) };
  if (output.length === 0) return [get];
  const set = {
    name: "set",
    idempotent: true,
    readBack: "get",
    argsSchema: schema(output, { on: { type: "boolean" } }),
  };
  return [set, get];
}
