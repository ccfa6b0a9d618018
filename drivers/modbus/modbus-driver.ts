import { CommandRefused, CommandUncertain } from "../../core/command-errors.js";
import type {
  CommandDescription,
  Driver,
  DriverDeps,
  OpenDriver,
  Reading,
  ReadingDescription,
} from "../../core/driver.js";
import { DeviceGone, SyntaxInvalid, TimedOut } from "../../core/errors.js";
import { ChildSignal } from "../../core/scope.js";
import { commandNamed } from "../configured-command.js";
import { readingValue } from "../field-readings.js";
import type { ModbusCommand, ModbusConfig, ModbusReading } from "./config.js";
import {
  checkWriteAnswer,
  isBits,
  ModbusException,
  readAnswer,
  readRequest,
  writeCoilRequest,
  writeRegistersRequest,
} from "./pdu.js";
import { planReads, type Place, type PlannedRead } from "./read-plan.js";
import { RtuTransport } from "./rtu.js";
import { openTcp } from "./tcp.js";
import type { ModbusTransport } from "./transport.js";
import { decodeRegisters, encodeRegisters, registersOf } from "./values.js";

/** Rounds in which nobody answers at all, after which the way itself is opened anew. */
const SILENT_ROUNDS = 3;

type ReadPlace = ModbusReading & Place;

/** The devices of a bus, by the keys of {@link ModbusConfig}. */
export const openModbus: OpenDriver<ModbusConfig> = async (config, deps, signal) => {
  return new ModbusDriver(config, deps, await openTransport(config, deps, signal));
};

async function openTransport(config: ModbusConfig, deps: DriverDeps, signal: AbortSignal): Promise<ModbusTransport> {
  const { path, host, port, baud: baudRate, parity, stopBits, rs485, timeoutMs } = config;
  const { clock } = deps;
  if (path === undefined) return openTcp({ host: host ?? "", port, clock, timeoutMs }, signal);
  const line = await deps.openPort(path, { baudRate, parity, stopBits, ...(rs485 && { rs485 }) }, signal);
  return new RtuTransport({ port: line, clock, baudRate, timeoutMs });
}

class ModbusDriver implements Driver {
  readonly id: string;
  readonly readings: readonly ReadingDescription[];
  readonly commands: readonly CommandDescription[];
  readonly #config: ModbusConfig;
  readonly #deps: DriverDeps;
  readonly #transport: ModbusTransport;
  /** A bus has one request under way. */
  #turn: Promise<unknown> = Promise.resolve();
  #reads: readonly PlannedRead<ReadPlace>[];
  #timeouts = 0;
  #damaged = 0;
  #exceptions = 0;

  constructor(config: ModbusConfig, deps: DriverDeps, transport: ModbusTransport) {
    this.id = config.id;
    this.readings = config.reading.map(({ name, unit, table, class: readingClass }) => ({
      name,
      ...(unit === undefined ? {} : { unit }),
      type: isBits(table) ? "boolean" : "number",
      class: readingClass,
    }));
    this.commands = config.command.map(descriptionOf);
    this.#config = config;
    this.#deps = deps;
    this.#transport = transport;
    this.#reads = planReads(config.reading.map((reading) => ({ ...reading, count: countOf(reading) })));
  }

  /** `timeouts` and `damaged` answers are of the bus, `exceptions` of a device that does not have what is asked. */
  counters(): Readonly<Record<string, number>> {
    return { timeouts: this.#timeouts, damaged: this.#damaged, exceptions: this.#exceptions };
  }

  async run(stop: AbortSignal): Promise<void> {
    await using session = new ChildSignal(stop);
    const gone = this.#transport.untilGone(session.signal);
    try {
      await Promise.race([gone, this.#rounds(session.signal)]);
    } catch (error) {
      if (!stop.aborted) throw error;
    }
  }

  async call(name: string, args: Readonly<Record<string, unknown>>, signal: AbortSignal): Promise<unknown> {
    const command = commandNamed(this.#config.command, name);
    const request = writeOf(command, args["value"]);
    try {
      checkWriteAnswer(request, await this.#ask(command.unitId, request, signal));
      const count = countOf(command);
      const read = readRequest(command.table, command.address, count);
      const data = readAnswer(command.table, count, await this.#ask(command.unitId, read, signal));
      return { value: valueOf(command, data, 0) };
    } catch (cause) {
      const message = `${this.id}/${name}: ${cause instanceof Error ? cause.message : String(cause)}`;
      if (cause instanceof ModbusException) throw new CommandRefused(message, { cause });
      throw new CommandUncertain(message, { cause });
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#transport[Symbol.asyncDispose]();
  }

  async #rounds(signal: AbortSignal): Promise<never> {
    for (let silent = 0; ;) {
      let answers = 0;
      for (const read of this.#reads) {
        const readings = await this.#read(read, signal);
        if (readings) answers += 1;
        if (readings && readings.length > 0) await this.#deps.publish(readings);
      }
      silent = answers > 0 || this.#reads.length === 0 ? 0 : silent + 1;
      if (silent >= SILENT_ROUNDS) throw new DeviceGone("nobody on the bus answers");
      await this.#deps.clock.sleep(this.#config.intervalMs, signal);
    }
  }

  /** The readings of an answer; none for an exception, `undefined` when there was no proper answer. */
  async #read(read: PlannedRead<ReadPlace>, signal: AbortSignal): Promise<Reading[] | undefined> {
    const { unitId, table, address, count, places } = read;
    try {
      const data = readAnswer(table, count, await this.#ask(unitId, readRequest(table, address, count), signal));
      const timeMs = this.#deps.clock.now();
      return places.flatMap((place) => readingOf(place, data, address, timeMs));
    } catch (error) {
      if (error instanceof ModbusException) {
        this.#exceptions += 1;
        // A device may not have what lies in a gap: from now on its places are asked for one by one.
        if (places.length > 1) this.#reads = this.#reads.flatMap((one) => (one === read ? singles(places) : [one]));
        return [];
      }
      if (error instanceof TimedOut) this.#timeouts += 1;
      else if (error instanceof SyntaxInvalid) this.#damaged += 1;
      else throw error;
      return undefined;
    }
  }

  #ask(unitId: number, pdu: Buffer, signal: AbortSignal): Promise<Buffer> {
    const answer = this.#turn.then(() => this.#transport.request(unitId, pdu, signal));
    this.#turn = answer.catch(() => undefined);
    return answer;
  }
}

const countOf = ({ table, type }: Pick<ModbusReading, "table" | "type">): number =>
  isBits(table) ? 1 : registersOf(type);

const singles = (places: readonly ReadPlace[]): PlannedRead<ReadPlace>[] =>
  places.flatMap((place) => planReads([place]));

type Placed = Pick<ModbusReading, "table" | "type" | "wordOrder" | "scale">;

function readingOf(place: ReadPlace, data: Buffer, from: number, timeMs: number): Reading[] {
  const value = readingValue(valueOf(place, data, place.address - from));
  if (value === undefined) return [];
  const { name, unit, class: readingClass } = place;
  return [{ name, value, timeMs, class: readingClass, ...(unit === undefined ? {} : { unit }) }];
}

/** The value that lies `offset` registers or bits after the beginning of the data. */
function valueOf({ table, type, wordOrder, scale }: Placed, data: Buffer, offset: number): number | boolean {
  if (isBits(table)) return (((data[offset >> 3] ?? 0) >> (offset & 7)) & 1) === 1;
  const value = decodeRegisters(data.subarray(offset * 2), type, wordOrder) * scale;
  // 215 * 0.1 is 21.5, not 21.500000000000004.
  return scale === 1 ? value : Number(value.toPrecision(12));
}

function writeOf(command: ModbusCommand, value: unknown): Buffer {
  if (command.table === "coil") return writeCoilRequest(command.address, value === true);
  try {
    const data = encodeRegisters(Number(value) / command.scale, command.type, command.wordOrder);
    return writeRegistersRequest(command.address, data);
  } catch (cause) {
    throw new CommandRefused(`value: expected one that ${command.type} has`, { cause });
  }
}

function descriptionOf({ name, table, minimum, maximum }: ModbusCommand): CommandDescription {
  const value = {
    type: table === "coil" ? "boolean" : "number",
    ...(minimum === undefined ? {} : { minimum }),
    ...(maximum === undefined ? {} : { maximum }),
  };
  const argsSchema = { type: "object", properties: { value }, required: ["value"], additionalProperties: false };
  return { name, argsSchema, idempotent: true };
}
