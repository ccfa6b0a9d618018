import fc from "fast-check";
import t from "tap";
import * as v from "valibot";
import type { Driver } from "../../core/driver.js";
import { codeOf } from "../../core/errors.js";
import { modbusSchema } from "../../drivers/modbus/config.js";
import { openModbus } from "../../drivers/modbus/modbus-driver.js";
import { checkWriteAnswer, readAnswer, writeRegistersRequest } from "../../drivers/modbus/pdu.js";
import { planReads } from "../../drivers/modbus/read-plan.js";
import { decodeRegisters, encodeRegisters, REGISTER_TYPES } from "../../drivers/modbus/values.js";
import { driverContract, eventually, recordingDeps, type RecordingDeps } from "../contracts/driver.js";
import {
  emptyTables,
  openModbusRtu,
  openModbusTcp,
  type ModbusBus,
  type ModbusLine,
  type ModbusServer,
  type ModbusTables,
} from "../fixtures/pty-modbus-server.js";

const never = new AbortController().signal;

void t.test("registers", async (t) => {
  t.equal(decodeRegisters(Buffer.from("42280000", "hex"), "f32", "big"), 42);
  t.equal(decodeRegisters(Buffer.from("00004228", "hex"), "f32", "little"), 42);
  t.equal(decodeRegisters(Buffer.from("ff38", "hex"), "i16", "big"), -200);
  t.throws(() => encodeRegisters(70_000, "u16", "big"), RangeError);
  t.throws(() => encodeRegisters(-1, "u32", "big"), RangeError);
  const number = {
    u16: fc.nat(65_535),
    i16: fc.integer({ min: -32_768, max: 32_767 }),
    u32: fc.nat(4_294_967_295),
    i32: fc.integer(),
    f32: fc.float({ noNaN: true }),
    f64: fc.double({ noNaN: true }),
  };
  for (const type of REGISTER_TYPES) {
    fc.assert(
      fc.property(number[type], fc.constantFrom("big" as const, "little" as const), (value, order) =>
        Object.is(decodeRegisters(encodeRegisters(value, type, order), type, order), value),
      ),
    );
  }
});

void t.test("reads are planned so that all places are covered, by few requests within the limits", async (t) => {
  const place = fc.record({
    unitId: fc.integer({ min: 1, max: 2 }),
    table: fc.constantFrom("holding" as const, "coil" as const),
    address: fc.nat(400),
    count: fc.integer({ min: 1, max: 4 }),
  });
  fc.assert(
    fc.property(fc.array(place, { maxLength: 40 }), (places) => {
      const reads = planReads(places);
      return (
        reads.reduce((sum, read) => sum + read.places.length, 0) === places.length &&
        reads.every(
          (read) =>
            read.count <= (read.table === "coil" ? 2000 : 125) &&
            read.places.every(
              (one) =>
                one.unitId === read.unitId &&
                one.table === read.table &&
                one.address >= read.address &&
                one.address + one.count <= read.address + read.count,
            ),
        )
      );
    }),
  );
  const holding = (address: number) => ({ unitId: 1, table: "holding" as const, address, count: 2 });
  t.equal(planReads([holding(20), holding(0), holding(10)]).length, 1);
  t.equal(planReads([holding(0), holding(300)]).length, 2);
});

void t.test("answers are checked", async (t) => {
  t.throws(() => readAnswer("holding", 1, Buffer.from("8302", "hex")), { code: "MODBUS_EXCEPTION", exception: 2 });
  t.throws(() => readAnswer("holding", 2, Buffer.from("03020001", "hex")), { code: "SYNTAX_INVALID" });
  const write = writeRegistersRequest(5, Buffer.from([0, 1, 0, 2]));
  checkWriteAnswer(write, Buffer.from("1000050002", "hex"));
  t.throws(() => checkWriteAnswer(write, Buffer.from("1000060002", "hex")), { code: "SYNTAX_INVALID" });
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 20 }), (bytes) => {
      try {
        readAnswer("coil", 9, Buffer.from(bytes));
        return bytes[0] === 1 && bytes[1] === 2;
      } catch (error) {
        return ["SYNTAX_INVALID", "MODBUS_EXCEPTION"].includes(codeOf(error) ?? "");
      }
    }),
  );
});

const keys = {
  id: "meter",
  type: "modbus",
  intervalMs: 30,
  timeoutMs: 300,
  reading: [
    { name: "voltage", unit: "V", address: 0, scale: 0.1 },
    { name: "power", unit: "W", address: 2, type: "f32", wordOrder: "little" },
    { name: "temperature", unit: "Cel", address: 7, table: "input", type: "i16", scale: 0.1 },
    { name: "pump", address: 3, table: "coil" },
  ],
  command: [
    { name: "limit", address: 10, type: "u32", maximum: 100_000 },
    { name: "level", address: 12, type: "i16", scale: 0.1 },
    { name: "pump", address: 3, table: "coil" },
    { name: "nowhere", address: 5000 },
  ],
};

function meter(): ModbusTables {
  const tables = emptyTables();
  const power = encodeRegisters(1234.5, "f32", "little");
  for (const [address, value] of [
    [0, 2305],
    [2, power.readUInt16BE(0)],
    [3, power.readUInt16BE(2)],
    [10, 0],
    [11, 0],
    [12, 0],
  ] as const) {
    tables.holding.set(address, value);
  }
  tables.holding.set(1, 0);
  tables.input.set(7, 65_536 - 55);
  tables.coils.set(3, true);
  return tables;
}

async function running(
  t: { teardown: (end: () => Promise<void>) => void },
  server: ModbusServer,
  deps: RecordingDeps,
  more: Record<string, unknown> = {},
): Promise<{ readonly driver: Driver; readonly ended: Promise<unknown> }> {
  const stop = new AbortController();
  const driver = await openModbus(v.parse(modbusSchema, { ...keys, ...server.keys, ...more }), deps, stop.signal);
  const ended = driver.run(stop.signal).catch((error: unknown) => error);
  t.teardown(async () => {
    stop.abort();
    await ended;
    await driver[Symbol.asyncDispose]();
  });
  return { driver, ended };
}

const buses: readonly (readonly [string, (bus: ModbusBus) => Promise<ModbusServer | ModbusLine>])[] = [
  ["TCP", openModbusTcp],
  ["RTU on a pty", openModbusRtu],
];
for (const [name, open] of buses) {
  void t.test(`Modbus ${name} against modbus-serial's server`, async (t) => {
    await t.test("reads all tables, several types, neighbours together", async (t) => {
      await using server = await open(meter());
      await using deps = await recordingDeps();
      await running(t, server, deps);
      await deps.until(8);
      const value = (reading: string): unknown => deps.readings.find((one) => one.name === reading)?.value;
      t.equal(value("voltage"), 230.5);
      t.equal(value("power"), 1234.5);
      t.equal(value("temperature"), -5.5);
      t.equal(value("pump"), true);
    });

    await t.test("writes by command, reads back, and hands on what the device refuses", async (t) => {
      const tables = meter();
      await using server = await open(tables);
      await using deps = await recordingDeps();
      const { driver } = await running(t, server, deps);
      t.strictSame(await driver.call("limit", { value: 70_000 }, never), { value: 70_000 });
      t.strictSame(await driver.call("level", { value: -12.5 }, never), { value: -12.5 });
      t.strictSame(await driver.call("pump", { value: false }, never), { value: false });
      t.equal((tables.holding.get(10) ?? 0) * 65_536 + (tables.holding.get(11) ?? 0), 70_000);
      t.equal(tables.coils.get(3), false);
      await t.rejects(driver.call("nowhere", { value: 1 }, never), {
        code: "COMMAND_REFUSED",
        message: /illegal data address/u,
      });
      await t.rejects(driver.call("level", { value: 10_000 }, never), { code: "COMMAND_REFUSED" });
    });

    await t.test("asks one by one when a device does not have what lies between", async (t) => {
      const tables = meter();
      tables.holding.delete(1);
      await using server = await open(tables);
      await using deps = await recordingDeps();
      const { driver } = await running(t, server, deps);
      await eventually(() => deps.readings.some((one) => one.name === "power"), "the power");
      t.ok(deps.readings.some((one) => one.name === "voltage"));
      t.equal(driver.counters?.()["exceptions"], 1);
    });

    await t.test("answers a write with what the device made of it", async (t) => {
      const tables = meter();
      tables.stored = (value) => Math.min(value, 300);
      await using server = await open(tables);
      await using deps = await recordingDeps();
      const { driver } = await running(t, server, deps);
      t.strictSame(await driver.call("level", { value: 99 }, never), { value: 30 }, "function 6, one register");
      t.strictSame(await driver.call("limit", { value: 70_000 }, never), { value: 65_836 }, "function 16, several");
    });

    await t.test("names the exception with which a device refuses, and lets it be asked again", async (t) => {
      const tables = meter();
      await using server = await open(tables);
      await using deps = await recordingDeps();
      const { driver, ended } = await running(t, server, deps);
      await deps.until(4);
      for (const [code, text] of [
        [4, /device failure/u],
        [6, /device busy/u],
        [11, /gateway target does not respond/u],
      ] as const) {
        tables.exception = code;
        await t.rejects(driver.call("level", { value: 1 }, never), { code: "COMMAND_REFUSED", message: text });
      }
      const counted = driver.counters?.()["exceptions"] ?? 0;
      await eventually(() => (driver.counters?.()["exceptions"] ?? 0) > counted + 8, "rounds of exceptions");
      delete tables.exception;
      const before = deps.readings.length;
      await deps.until(before + 4);
      t.equal(
        await Promise.race([ended, Promise.resolve("runs")]),
        "runs",
        "a device that answers with exceptions is there",
      );
    });

    await t.test("drives several units on one bus; one that is silent holds up no other", async (t) => {
      const units = new Map([1, 2, 3].map((id) => [id, meter()] as const));
      units.get(2)?.holding.set(0, 1111);
      const reading = [1, 2].map((unitId) => ({ name: `voltage.${unitId}`, address: 0, unitId, scale: 0.1 }));
      const command = [{ name: "pump", address: 3, table: "coil", unitId: 3 }];
      await using server = await open(units);
      await using deps = await recordingDeps();
      const { driver, ended } = await running(t, server, deps, { reading, command, timeoutMs: 60 });
      const of = (name: string): readonly unknown[] =>
        deps.readings.filter((one) => one.name === name).map(({ value }) => value);
      await eventually(() => of("voltage.1").length > 1 && of("voltage.2").length > 1, "both units");
      t.equal(of("voltage.1")[0], 230.5);
      t.equal(of("voltage.2")[0], 111.1);
      t.strictSame(await driver.call("pump", { value: false }, never), { value: false });
      t.strictSame(
        [1, 2, 3].map((id) => units.get(id)?.coils.get(3)),
        [true, true, false],
        "only the unit that was meant has switched",
      );
      // modbus-serial's serial server waits for one unit before it hears the next; a line does not.
      const silent = units.get(2);
      if ("tamper" in server) server.tamper = (chunk) => (chunk[0] === 2 ? Buffer.alloc(0) : chunk);
      else if (silent) silent.deaf = true;
      const [first, second] = [of("voltage.1").length, of("voltage.2").length];
      await eventually(() => of("voltage.1").length > first + 5, "the unit that answers");
      t.ok(of("voltage.2").length <= second + 1);
      t.ok((driver.counters?.()["timeouts"] ?? 0) >= 5);
      t.equal(await Promise.race([ended, Promise.resolve("runs")]), "runs");
    });

    await t.test("takes no answer that comes too late for the next one's", async (t) => {
      const tables = meter();
      await using server = await open(tables);
      await using deps = await recordingDeps();
      const { driver } = await running(t, server, deps, { timeoutMs: 60 });
      await deps.until(4);
      tables.lateMs = 80;
      await eventually(() => (driver.counters?.()["timeouts"] ?? 0) >= 2, "time-outs");
      delete tables.lateMs;
      const before = deps.readings.length;
      await deps.until(before + 8);
      const expected = new Map<string, unknown>([
        ["voltage", 230.5],
        ["power", 1234.5],
        ["temperature", -5.5],
        ["pump", true],
      ]);
      t.ok(deps.readings.every(({ name, value }) => expected.get(name) === value));
    });

    await t.test("says DEVICE_GONE when nobody answers any more, and UNKNOWN_OUTCOME to a command", async (t) => {
      const tables = meter();
      await using server = await open(tables);
      await using deps = await recordingDeps();
      const { driver, ended } = await running(t, server, deps, { timeoutMs: 60 });
      await deps.until(4);
      tables.deaf = true;
      t.match(await driver.call("pump", { value: true }, never).catch((error: unknown) => error), {
        code: "UNKNOWN_OUTCOME",
      });
      t.match(await ended, { code: "DEVICE_GONE", message: /nobody on the bus answers/u });
    });
  });
}

void t.test("answers with a false checksum are counted and not believed", async (t) => {
  await using line = await openModbusRtu(meter());
  await using deps = await recordingDeps();
  const { driver } = await running(t, line, deps);
  await deps.until(4);
  let damaged = 0;
  line.tamper = (chunk) => {
    if (damaged >= 4) return chunk;
    damaged += 1;
    const changed = Buffer.from(chunk);
    changed[changed.length - 3] = (changed.at(-3) ?? 0) ^ 0x10;
    return changed;
  };
  await eventually(() => (driver.counters?.()["damaged"] ?? 0) >= 4, "four damaged answers");
  const before = deps.readings.length;
  await deps.until(before + 8);
  t.ok(deps.readings.every(({ name, value }) => name !== "voltage" || value === 230.5));
});

void t.test("neighbours are read by one request, and a master has one request under way", async (t) => {
  await using line = await openModbusRtu(meter());
  await using deps = await recordingDeps();
  const { driver } = await running(t, line, deps, { intervalMs: 100 });
  let underWay = 0;
  let most = 0;
  line.tamper = (chunk) => {
    most = Math.max(most, line.requests.length - underWay);
    underWay = line.requests.length;
    return chunk;
  };
  await deps.until(8);
  const functions = line.requests.slice(0, 3).map((frame) => [frame[1], frame.readUInt16BE(2), frame.readUInt16BE(4)]);
  t.strictSame(
    functions.sort((a, b) => (a[0] ?? 0) - (b[0] ?? 0)),
    [
      [1, 3, 1],
      [3, 0, 4],
      [4, 7, 1],
    ],
    "three requests for four readings",
  );
  await Promise.all(Array.from({ length: 5 }, (_, value) => driver.call("limit", { value }, never)));
  t.equal(most, 1);
});

for (const [kind, open] of [
  ["modbus TCP", openModbusTcp],
  ["modbus RTU", openModbusRtu],
] as const) {
  void driverContract(t, kind, async () => {
    const tables = meter();
    const server = await open(tables);
    const config = v.parse(modbusSchema, { ...keys, ...server.keys, timeoutMs: 5000 });
    return {
      open: (deps, signal) => openModbus(config, deps, signal),
      stimulate: async () => undefined,
      removeDevice: () => server.gone(),
      command: { name: "limit", args: { value: 5 }, result: { value: 5 } },
      [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
    };
  });
}
