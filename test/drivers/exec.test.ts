import { chmod, copyFile, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import t, { type Test } from "tap";
import * as v from "valibot";
import { utf8 } from "../../core/bytes.js";
import type { Driver } from "../../core/driver.js";
import { codeOf } from "../../core/errors.js";
import { execSchema } from "../../drivers/exec/config.js";
import { openExecOf } from "../../drivers/exec/exec-driver.js";
import { parseExecMessage } from "../../drivers/exec/exec-messages.js";
import { trustedProgram } from "../../drivers/exec/trusted-program.js";
import { eventually, recordingDeps, type RecordingDeps } from "../contracts/driver.js";

const examples = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "examples", "exec");
const me = process.getuid?.() ?? 0;
const never = new AbortController().signal;

async function folder(t: Test): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "atedge-exec-"));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

async function open(t: Test, deps: RecordingDeps, script: string, keys: Record<string, unknown> = {}): Promise<Driver> {
  const dir = await folder(t);
  await writeFile(join(dir, "program"), script, { mode: 0o755 });
  const config = v.parse(execSchema, { id: "own", type: "exec", folder: dir, program: "program", ...keys });
  return openExecOf([me])(config, deps, AbortSignal.timeout(30_000));
}

void t.test("only a program that nobody but its owner could have put there is run", async (t) => {
  const dir = await folder(t);
  const path = join(dir, "program");
  await writeFile(path, "#!/bin/sh\n", { mode: 0o755 });
  t.equal(await trustedProgram(dir, "program", [me]), path);
  await t.rejects(trustedProgram(dir, "program", [me + 1]), { code: "PROGRAM_REFUSED", message: /not owned by root/u });
  await t.rejects(trustedProgram(dir, "nothing", [me]), { code: "PROGRAM_REFUSED" });
  await symlink("/bin/sh", join(dir, "link"));
  await t.rejects(trustedProgram(dir, "link", [me]), { message: /no plain file/u });
  await chmod(path, 0o775);
  await t.rejects(trustedProgram(dir, "program", [me]), { message: /may be changed by others/u });
  await chmod(path, 0o644);
  await t.rejects(trustedProgram(dir, "program", [me]), { message: /not executable/u });
  await chmod(path, 0o755);
  await chmod(dir, 0o777);
  await t.rejects(trustedProgram(dir, "program", [me]), { message: /may be changed by others/u });
  for (const program of ["../sh", "a/b", "", ".hidden"]) {
    t.notOk(v.safeParse(execSchema, { id: "x", type: "exec", program }).success, program);
  }
});

void t.test("what a program says is checked", async (t) => {
  t.match(parseExecMessage(utf8('{"readings":[{"name":"t","value":1}],"n":3}')), { n: 3 });
  t.match(parseExecMessage(utf8('{"answer":1,"refused":"no"}')), { answer: 1, refused: "no" });
  for (const line of [
    "hello",
    "{}",
    '{"readings":[]}',
    '{"readings":[{"name":"two words","value":1}]}',
    '{"readings":[{"name":"t","value":null}]}',
    '{"readings":[{"name":"t","value":1,"extra":1}]}',
    '{"answer":"1","result":1}',
    '{"answer":1,"result":1,"more":2}',
  ]) {
    t.throws(() => parseExecMessage(utf8(line)), { code: "SYNTAX_INVALID" }, line);
  }
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array(), fc.json().map(utf8)), (line) => {
      try {
        parseExecMessage(line);
        return true;
      } catch (error) {
        return codeOf(error) === "SYNTAX_INVALID";
      }
    }),
  );
});

void t.test("numbered readings are acknowledged in order when they are in the outbox", async (t) => {
  await using deps = await recordingDeps();
  const script = `#!/bin/sh
echo '{"commands":[]}'
for n in 1 2 3; do echo "{\\"readings\\":[{\\"name\\":\\"n\\",\\"value\\":$n}],\\"n\\":$n}"; done
while read -r line; do echo "$line" >> acks; [ "$line" = '{"ack":3}' ] && echo '{"readings":[{"name":"done","value":true}]}'; done
`;
  const driver = await open(t, deps, script);
  const stop = new AbortController();
  const running = driver.run(stop.signal);
  await deps.until(4);
  t.strictSame(
    deps.readings.map(({ value }) => value),
    [1, 2, 3, true],
  );
  stop.abort();
  await running;
  await driver[Symbol.asyncDispose]();
});

void t.test("a program that misbehaves is ended with a reason", async (t) => {
  const cases: readonly (readonly [string, string, string, RegExp])[] = [
    ["says no commands", "echo '{\"readings\":[]}'; sleep 10", "SYNTAX_INVALID", /expected/u],
    ["ends at once", "exit 3", "DEVICE_GONE", /program ended with code 3/u],
    ["says nothing", "exec sleep 10", "TIMED_OUT", /first line of program/u],
    ["says one endless line", "tr '\\0' x < /dev/zero", "LIMIT_EXCEEDED", /longer than/u],
  ];
  for (const [what, script, code, message] of cases) {
    await using deps = await recordingDeps();
    await t.rejects(open(t, deps, `#!/bin/sh\n${script}\n`, { startMs: 500 }), { code, message }, what);
  }
  await using deps = await recordingDeps();
  const driver = await open(t, deps, '#!/bin/sh\necho \'{"commands":[]}\'\necho \'{"gone":"no bus"}\'\nsleep 10\n');
  await t.rejects(driver.run(never), { code: "DEVICE_GONE", message: "no bus" });
  await driver[Symbol.asyncDispose]();
});

void t.test("a program that does not want to end is killed with all that it started", async (t) => {
  await using deps = await recordingDeps();
  const script = `#!/bin/sh
trap '' TERM
sleep 1000 &
echo '{"commands":[]}'
echo "{\\"readings\\":[{\\"name\\":\\"pid\\",\\"value\\":$!}]}"
while :; do sleep 1; done
`;
  const driver = await open(t, deps, script);
  const stop = new AbortController();
  const running = driver.run(stop.signal);
  await deps.until(1);
  const pid = Number(deps.readings[0]?.value);
  stop.abort();
  await running;
  await driver[Symbol.asyncDispose]();
  await eventually(() => {
    try {
      process.kill(pid, 0);
      return false;
    } catch {
      return true;
    }
  }, "the end of what it started");
});

void t.test("the examples run as they are", async (t) => {
  await using deps = await recordingDeps();
  for (const program of ["thermometer.py", "uptime.sh"]) {
    const dir = await folder(t);
    await copyFile(join(examples, program), join(dir, program));
    await chmod(join(dir, program), 0o755);
    const config = v.parse(execSchema, { id: "own", type: "exec", folder: dir, program });
    const driver = await openExecOf([me])(config, deps, AbortSignal.timeout(30_000));
    const stop = new AbortController();
    const running = driver.run(stop.signal);
    const before = deps.readings.length;
    if (program === "thermometer.py") t.strictSame(await driver.call("set", { to: 25 }, never), { setPoint: 25 });
    await deps.until(before + 1);
    stop.abort();
    await running;
    await driver[Symbol.asyncDispose]();
  }
  t.match(deps.readings.map(({ name }) => name).join(), /temperature.*uptime/u);
});
