import { execFile } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import t from "tap";
import { parse } from "smol-toml";
import * as v from "valibot";
import { allDriverSchemas } from "../../agent/driver-kinds.js";
import { linkConfigOf } from "../../firmware-bridge/link/config.js";

/** What the sketch takes from its platform. */
const ARDUINO = `
#include <stddef.h>
#include <stdint.h>
enum { LED_BUILTIN = 13, LOW = 0, HIGH = 1 };
struct SerialPort { void begin(long); int available(); int read(); int availableForWrite(); size_t write(const uint8_t *, size_t); };
extern SerialPort Serial;
uint32_t millis();
int digitalRead(int);
int analogRead(int);
void digitalWrite(int, int);
void hardwareRandom(uint8_t *, size_t);
bool flashSave(const uint8_t *, size_t);
bool flashLoad(uint8_t *, size_t);
`;

const withDrivers = v.looseObject({ driver: v.array(v.looseObject({ type: v.string() })) });

t.test("The examples of docs/extend/firmware.md are good ones", async (t) => {
  const page = await readFile("docs/extend/firmware.md", "utf8");
  const block = (language: string): string =>
    new RegExp(`\`\`\`${language}\\n([\\s\\S]*?)\`\`\``, "u").exec(page)?.[1] ?? "";
  const folder = t.testdir({ "Arduino.h": ARDUINO, "sketch.cpp": block("cpp") });
  const include = join(process.cwd(), "firmware-bridge", "firmware", "src");
  const args = [
    "-std=c++17",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-missing-field-initializers",
    "-fsyntax-only",
    "-I",
    folder,
    "-I",
    include,
    join(folder, "sketch.cpp"),
  ];
  await t.resolves(promisify(execFile)("g++", args));
  t.match(linkConfigOf(parse(block("toml")), "press").config, { type: "link", firmware: { selfTest: "self-test" } });
  const runbook = await readFile("docs/operate/firmware.md", "utf8");
  for (const text of [page, runbook]) {
    const tables = [...text.matchAll(/```toml\n([\s\S]*?)```/gu)].flatMap(
      ([, toml = ""]) => v.parse(withDrivers, parse(toml)).driver,
    );
    for (const table of tables) {
      const schema = Object.entries(allDriverSchemas).find(([type]) => type === table.type)?.[1];
      t.ok(schema && v.safeParse(schema, table).success, JSON.stringify(table));
    }
  }
  await t.rejects(
    writeFile(join(folder, "sketch.cpp"), block("cpp").replace("atl_poll(&board)", "atl_pol(&board)")).then(() =>
      promisify(execFile)("g++", args),
    ),
    "a sketch that is wrong is found",
  );
});
