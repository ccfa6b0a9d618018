import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { enroll } from "../../atplatform/client/enroll.js";
import { parseAtSign } from "../../atplatform/protocol/at-sign.js";
import { TestPlatform } from "../fixtures/at-platform.js";
import { compileProgram, environmentOf, root, SdkProgram } from "../fixtures/sdk-program.js";

const never = new AbortController().signal;

t.test("examples", async (t) => {
  const folder = t.testdir({ programs: {}, home: {}, state: {} });
  await using platform = await TestPlatform.open(join(folder, "state"));
  await platform.onboard("@alice");
  await platform.onboard("@bob");
  const env = await environmentOf(platform, join(folder, "home"));
  const compiled = (name: string): Promise<string> =>
    compileProgram(join(root, "examples", `${name}.ts`), join(folder, "programs"), name);
  const pair = async (name: string): Promise<readonly [SdkProgram, SdkProgram]> => {
    const file = await compiled(name);
    return [
      new SdkProgram(file, { ...env, AT_SIGN: "@alice", PEER: "@bob" }),
      new SdkProgram(file, { ...env, AT_SIGN: "@bob", PEER: "@alice" }),
    ];
  };

  await t.test("chat: two processes talk to each other, in under 40 lines", async (t) => {
    const [alice, bob] = await pair("chat");
    await using first = alice;
    await using second = bob;
    // Messages from before the other listens are not of interest to it, so the first is said until it is heard.
    const repeat = setInterval(() => first.say("are you there?"), 200);
    await second.until(/^@alice: are you there\?$/u);
    clearInterval(repeat);
    second.say("yes, écoute : ✓");
    t.equal(await first.until(/^@bob/u), "@bob: yes, écoute : ✓");
    t.same(await Promise.all([first.end(), second.end()]), [0, 0]);
  });

  await t.test("chat-history: what was said is there for who comes later, in under 40 lines", async (t) => {
    const [alice, bob] = await pair("chat-history");
    await using first = alice;
    await using second = bob;
    first.say("written before anybody read it");
    await second.until(/^@alice at \d{13}: written before anybody read it$/u);
    second.say("answered");
    await first.until(/^@bob at \d{13}: answered$/u);
    t.same(await Promise.all([first.end(), second.end()]), [0, 0]);
  });

  for (const name of ["chat", "chat-history"]) {
    const lines = (await readFile(join(root, "examples", `${name}.ts`), "utf8")).trimEnd().split("\n").length;
    t.ok(lines < 40, `${name} has ${lines} lines`);
  }

  await t.test("sensor: its values reach the reader, as notifications and as a record", async (t) => {
    const file = await compiled("sensor");
    await using sensor = new SdkProgram(file, { ...env, AT_SIGN: "@alice", READER: "@bob", EVERY_MS: "200" });
    await using bob = await platform.client("@bob");
    const loads: unknown[] = [];
    for await (const notification of bob.subscribe({ regex: "load\\.sensor", since: "stored" }, never)) {
      loads.push(JSON.parse((await notification.decrypt(never)).text));
      if (loads.length === 2) break;
    }
    t.match(loads, [{ at: /^20/u, load: Number }, { load: Number }]);
    const record = await bob.get({ key: "load.sensor", by: parseAtSign("@alice") }, { fresh: true }, never);
    t.match(JSON.parse(record?.value ?? ""), { load: Number });
    t.equal(await sensor.end("SIGTERM"), 0);
    t.same(sensor.lines, []);
  });

  await t.test(
    "key-approval-bot: approves the device that was expected, and leaves another alone (trap 36)",
    async (t) => {
      const expectedFile = join(folder, "expected.json");
      await using alice = await platform.client("@alice");
      const request = (
        deviceName: string,
        onPending: (pending: { fingerprint: string }) => void,
        signal: AbortSignal,
      ) =>
        alice.enrollments.newPasscode({}, never).then((passcode) =>
          enroll(
            {
              atSign: parseAtSign("@alice"),
              appName: "agent",
              deviceName,
              namespaces: { "north.demo": "rw" },
              passcode,
              directory: platform.directory,
              ca: platform.platform.caPem,
              keyFile: join(folder, `${deviceName}.atKeys`),
              onPending,
              pollMs: 100,
            },
            signal,
          ),
        );
      const stop = new AbortController();
      let stranger: Promise<unknown> = Promise.resolve();
      await new Promise<void>((resolve) => {
        stranger = request("stranger", () => resolve(), stop.signal);
      });
      let device: ReturnType<typeof request> | undefined;
      const fingerprint = await new Promise<string>((resolve) => {
        device = request("north", (pending) => resolve(pending.fingerprint), never);
      });
      const expected = { appName: "agent", deviceName: "north", namespaces: { "north.demo": "rw" }, fingerprint };
      await writeFile(expectedFile, JSON.stringify([expected]));
      const file = await compiled("key-approval-bot");
      await using bot = new SdkProgram(file, { ...env, AT_SIGN: "@alice", EXPECTED: expectedFile });
      await bot.until(/^approved agent north /u);
      t.type((await device)?.enrollmentId, "string");
      t.equal(await bot.end(), 0);
      t.notOk(bot.lines.some((line) => line.startsWith("approved agent stranger")));
      stop.abort(new Error("given up"));
      await t.rejects(stranger, { message: "given up" });
    },
  );
});
