import fc from "fast-check";
import t from "tap";
import * as v from "valibot";
import { faultOf } from "../../drivers/arguments.js";
import { namePart, readingValue } from "../../drivers/field-readings.js";
import { InOrder } from "../../drivers/in-order.js";
import { parsePointer, valueAt } from "../../drivers/json-pointer.js";
import { driverSchema } from "../../drivers/registry.js";
import { fill, parseTemplate } from "../../drivers/template.js";

void t.test("JSON pointers", async (t) => {
  await t.test("find what RFC 6901, section 5, says", async (t) => {
    const document = { foo: ["bar", "baz"], "": 0, "a/b": 1, "m~n": 8 };
    t.equal(valueAt(document, parsePointer("")), document);
    t.equal(valueAt(document, parsePointer("/foo/0")), "bar");
    t.equal(valueAt(document, parsePointer("/")), 0);
    t.equal(valueAt(document, parsePointer("/a~1b")), 1);
    t.equal(valueAt(document, parsePointer("/m~0n")), 8);
  });

  await t.test("find nothing beyond a scalar, nor what is inherited", async (t) => {
    t.equal(valueAt({ a: 1 }, parsePointer("/a/b")), undefined);
    t.equal(valueAt({}, parsePointer("/constructor")), undefined);
    t.equal(valueAt(undefined, parsePointer("/a")), undefined);
  });

  await t.test("are refused without their slash or with a false escape", async (t) => {
    for (const text of ["a", "/~", "/~2"]) t.throws(() => parsePointer(text), { code: "SYNTAX_INVALID" });
  });
});

void t.test("templates", async (t) => {
  await t.test("give an argument its type in JSON, and its print in text", async (t) => {
    const json = parseTemplate('{"on":"{on}","note":"set to {level}","list":["{level}"]}');
    t.equal(fill(json, { on: true, level: 3 }), '{"on":true,"note":"set to 3","list":[3]}');
    t.equal(fill(parseTemplate("RELAY {on} {level}"), { on: true, level: 3 }), "RELAY true 3");
  });

  await t.test("keep any argument in its place in JSON", async () => {
    const template = parseTemplate('{"name":"{name}","safe":true}');
    fc.assert(
      fc.property(fc.string(), (name) => {
        const filled = JSON.parse(fill(template, { name })) as unknown;
        return JSON.stringify(filled) === JSON.stringify({ name, safe: true });
      }),
      { examples: [['","safe":false,"x":"']] },
    );
  });

  await t.test("refuse what could begin a second line, what is missing and what is inherited", async (t) => {
    const template = parseTemplate("SET {name}");
    for (const args of [{ name: "a\nRESET" }, { name: "a\rRESET" }, {}, { name: {} }, Object.create({ name: "x" })]) {
      t.throws(() => fill(template, args as Record<string, unknown>), { code: "COMMAND_REFUSED" });
    }
  });

  await t.test("that look like JSON have to be JSON", async (t) => {
    t.throws(() => parseTemplate('{"on":{on}}'), { code: "SYNTAX_INVALID" });
    t.equal(parseTemplate("{on}").kind, "text");
  });
});

void t.test("arguments are checked by their schema", async (t) => {
  const schema = {
    type: "object",
    properties: {
      on: { type: "boolean" },
      level: { type: "integer", minimum: 0, maximum: 10 },
      mode: { type: "string", enum: ["eco", "full"], maxLength: 8 },
    },
    required: ["on"],
    additionalProperties: false,
  };
  t.equal(faultOf(schema, { on: true, level: 10, mode: "eco" }), undefined);
  t.equal(faultOf(schema, {}), "on: expected a value");
  t.equal(faultOf(schema, { on: "yes" }), "on: expected boolean, got string");
  t.equal(faultOf(schema, { on: true, level: 1.5 }), "level: expected integer, got number");
  t.equal(faultOf(schema, { on: true, level: 11 }), "level: expected at most 10");
  t.equal(faultOf(schema, { on: true, mode: "off" }), 'mode: expected one of "eco", "full"');
  t.equal(faultOf(schema, { on: true, of: 1 }), "of: no such argument; there is on, level, mode");
  t.equal(faultOf(schema, null), "arguments: expected object, got null");
  t.equal(faultOf({ type: "array", items: { type: "number" } }, [1, "2"]), "[1]: expected number, got string");
});

void t.test("values become readings only when they are scalars that SenML has", async (t) => {
  t.equal(readingValue(2, 0.5, 1), 2);
  t.equal(readingValue("ON"), "ON");
  t.equal(readingValue(false), false);
  for (const value of [null, undefined, {}, [], NaN, Infinity, "x".repeat(1025)])
    t.equal(readingValue(value), undefined);
});

void t.test("any text becomes part of a SenML name", async () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), (text) => /^[A-Za-z0-9][-A-Za-z0-9:./_]*$/u.test(namePart(text))),
  );
});

void t.test("InOrder", async (t) => {
  await t.test("completes in the order of beginning, whatever order the works end in", async () => {
    await fc.assert(
      fc.asyncProperty(fc.shuffledSubarray([0, 1, 2, 3, 4, 5], { minLength: 6 }), async (endings) => {
        const order = new InOrder(() => undefined);
        const ends: (() => void)[] = [];
        const done: number[] = [];
        for (let n = 0; n < 6; n += 1) {
          order.add(new Promise((resolve) => (ends[n] = resolve)), 1, () => void done.push(n));
        }
        for (const n of endings) ends[n]?.();
        await order.atMost(0, new AbortController().signal);
        return done.join() === "0,1,2,3,4,5";
      }),
    );
  });

  await t.test("tells of a failure at once and completes nothing after it", async (t) => {
    const failed = new Error("disk");
    const done: number[] = [];
    let told: unknown;
    const order = new InOrder((error) => (told ??= error));
    let end: (() => void) | undefined;
    order.add(new Promise((resolve) => (end = resolve)), 1, () => void done.push(0));
    order.add(Promise.reject(failed), 1, () => void done.push(1));
    order.add(Promise.resolve(), 1, () => void done.push(2));
    await new Promise((resolve) => setImmediate(resolve));
    t.equal(told, failed, "while the first is still under way");
    end?.();
    await new Promise((resolve) => setImmediate(resolve));
    t.strictSame(done, [0], "the one before the failure is completed");
  });
});

void t.test("the drivers' configuration", async (t) => {
  await t.test("is refused with the path of each fault", async (t) => {
    const faults = (table: unknown): string[] =>
      (v.safeParse(driverSchema, table).issues ?? []).map((issue) => `${v.getDotPath(issue) ?? ""}: ${issue.message}`);
    t.match(faults({ id: "x", type: "no-such" }).join(), /type/u);
    t.match(faults({ id: "x", type: "serial" }).join(), /path/u);
    t.match(faults({ id: "x", type: "mqtt", url: "http://x" }).join(), /url: expected mqtt:/u);
    t.match(faults({ id: "x", type: "mqtt", url: "mqtt://user:secret@x" }).join(), /no user, password/u);
    t.match(
      faults({ id: "x", type: "mqtt", url: "mqtt://x", reading: [{ topic: "a/#/b", name: "n" }] }).join(),
      /reading.0.topic: expected a topic/u,
    );
    t.match(faults({ id: "x", type: "host", intervall: 3 }).join(), /intervall/u);
  });

  await t.test("has all its defaults in the schema", async (t) => {
    t.match(v.parse(driverSchema, { id: "x", type: "serial", path: "/dev/ttyUSB0" }), {
      baud: 115_200,
      frame: "json-lines",
      maxLineBytes: 4096,
    });
    t.match(v.parse(driverSchema, { id: "x", type: "mqtt", url: "mqtt://localhost" }), { version: "3.1.1" });
  });
});
