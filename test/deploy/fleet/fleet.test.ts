import { existsSync } from "node:fs";
import { readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { enroll } from "../../../atplatform/client/enroll.js";
import { parseAtSign } from "../../../atplatform/protocol/at-sign.js";
import { Scope } from "../../../core/scope.js";
import { Secret } from "../../../core/secret.js";
import { parseProvision, proofOf, type Provision } from "../../../deploy/fleet/provision-file.js";
import { TestPlatform } from "../../fixtures/at-platform.js";
import { AtedgeProcess, type Ended } from "../../fixtures/atedge-process.js";
import { bundleCli } from "../../fixtures/bundled-cli.js";

const forever = new AbortController().signal;

t.test("a fleet from one manifest, on the command line", { timeout: 110_000 }, async (t) => {
  const scope = new Scope();
  t.teardown(() => scope[Symbol.asyncDispose]());
  const cli = scope.use(await bundleCli());
  const folder = t.testdir({ platform: {}, templates: {} });
  const file = (...names: string[]): string => join(folder, ...names);
  const platform = scope.use(await TestPlatform.open(file("platform")));
  await platform.onboard("@one");
  await platform.onboard("@two");
  const { caFile = "" } = platform.platform;
  const reach = ["--directory", `localhost:${platform.directory.port}`, "--ca", caFile];
  const keys = ["--keys-dir", file("platform", "keys")];
  const start = (...args: string[]): AtedgeProcess => scope.use(new AtedgeProcess(cli.path, args));
  const fleet = (command: string, ...args: string[]): Promise<Ended> =>
    start("fleet", command, ...args, "--state", file("state")).ended;
  const owner = (command: string, ...args: string[]): Promise<Ended> => fleet(command, ...args, ...keys, ...reach);
  const apply = (...args: string[]): Promise<Ended> =>
    owner("apply", file("boards.csv"), "--out", file("out"), ...args);
  const approve = (...args: string[]): Promise<Ended> => owner("approve", file("boards.csv"), ...args);
  const provisionFile = (device: string): string => file("out", device, "atedge-provision.toml");
  const provisionOf = async (device: string): Promise<Provision> =>
    parseProvision(await readFile(provisionFile(device), "utf8"), device);
  const write = (rows: string): Promise<void> =>
    writeFile(file("boards.csv"), `name,serial,atsign,template,value.interval\n${rows}`);
  const stateOf = async (): Promise<Record<string, string>> => {
    const { out } = await fleet("status", "--json");
    const rows = out
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { name: string; state: string });
    return Object.fromEntries(rows.map(({ name, state }) => [name, state]));
  };
  const provision = (device: string, ...args: string[]): AtedgeProcess =>
    start(
      ...["provision", provisionFile(device), "--keys", file("boards", `${device}.atKeys`), "--poll", "200ms"],
      ...["--config", file("boards", `${device}.toml`), "--wait", "60s", ...args],
    );
  /** Files a request as somebody would who has not `atedge provision`. */
  async function request(device: string, how: Partial<Parameters<typeof enroll>[0]>): Promise<string> {
    const { atSign, passcodes } = await provisionOf(device);
    return await new Promise<string>((resolve, reject) => {
      const stop = new AbortController();
      t.teardown(() => stop.abort());
      enroll(
        {
          ...{ atSign, directory: platform.directory, ca: platform.platform.caPem, appName: "atedge" },
          ...{
            deviceName: device,
            namespaces: { [`${device}.atedge`]: "rw" },
            passcode: passcodes[0] ?? new Secret(""),
          },
          keyFile: file(`${Math.random()}.atKeys`),
          pollMs: 100_000,
          ...how,
          onPending: ({ enrollmentId }) => resolve(enrollmentId),
        },
        stop.signal,
      ).catch((error: unknown) => reject(error as Error));
    });
  }

  await writeFile(file("templates", "board.toml"), 'device = "{{device}}"\ninterval = "{{interval}}"\n');
  await write("north,s1,@one,board,5s\nsouth,s2,@one,board,9s\nwest,s3,@two,,\n");

  t.test("plan shows what apply would do and does nothing", async (t) => {
    const planned = await fleet("plan", file("boards.csv"));
    t.match(planned, { code: 0, out: /north +@one +bundle: new/u });
    t.match(planned.out, /3 devices at 2 atSigns: 3 to be bundled, 0 as they should be, 0 need a decision/u);
    t.match(await fleet("status"), { out: "0 devices: none yet\n" });
  });

  t.test(
    "apply makes a bundle for each board, with no private key in it, and a second run changes nothing",
    async (t) => {
      t.match(await apply("--report", file("report.json")), { code: 0, out: /3 bundles made/u });
      t.match(JSON.parse(await readFile(file("report.json"), "utf8")), { summary: { bundled: 3, failed: 0 } });
      const text = await readFile(provisionFile("north"), "utf8");
      t.equal((await stat(provisionFile("north"))).mode & 0o777, 0o600);
      t.notMatch(text, /PRIVATE|privateKey|MII[A-Za-z0-9+/]{200}/u);
      t.match(await provisionOf("north"), { config: 'device = "north"\ninterval = "5s"\n', proof: { serial: "s1" } });
      t.equal((await provisionOf("north")).passcodes.length, 3);
      t.match(await apply(), { code: 0, out: /^0 bundles made in .*, 3 devices as they should be, 0 need/u });
      t.equal(await readFile(provisionFile("north"), "utf8"), text);
      t.strictSame(await stateOf(), { north: "bundled", south: "bundled", west: "bundled" });
    },
  );

  t.test("exactly the boards that prove their bundle are let in", async (t) => {
    const north = provision("north", "--json");
    const { enrollmentId } = await north.until(
      ({ out }) =>
        out.includes('"pending"') ? (JSON.parse(out.split("\n")[0] ?? "") as { enrollmentId: string }) : undefined,
      "a request",
    );
    const south = await provisionOf("south");
    const { proof: southProof = t.fail("no proof") as never } = south;
    const invented = { ...southProof, secret: new Secret(Buffer.alloc(32, 1).toString("base64")) };
    const northProof = (await provisionOf("north")).proof ?? southProof;
    const foreign = [
      await request("south", { appName: "someapp" }),
      await request("south", {
        proof: (key) => proofOf(invented, "south", key),
        passcode: south.passcodes[1] as Secret,
      }),
      await request("west", { proof: (key) => proofOf(southProof, "west", key) }),
      await request("south", {
        proof: (key) => proofOf(southProof, "south", key),
        namespaces: { "*": "rw" },
        passcode: south.passcodes[2] as Secret,
      }),
    ];
    t.match(await approve("--json"), {
      code: 0,
      out: new RegExp(`"enrollment":"${enrollmentId}","outcome":"approved"`, "u"),
    });
    t.match(await north.ended, { code: 0, out: /"type":"provisioned"/u });
    t.notOk(existsSync(provisionFile("north")), "the file was wiped");
    t.equal(await readFile(file("boards", "north.toml"), "utf8"), 'device = "north"\ninterval = "5s"\n');
    const client = await platform.client("@one");
    t.teardown(() => client[Symbol.asyncDispose]());
    t.equal((await client.enrollments.fetch(enrollmentId, forever)).status, "approved");
    const denied = (await fleet("audit")).out.split("\n").filter((line) => line.includes("denied"));
    t.equal(denied.length, 4);
    for (const [at, why] of [
      /names no bundle/u,
      /proof .* is wrong/u,
      /of south, not of west|none of this fleet/u,
      /asks for \*:rw/u,
    ].entries()) {
      t.ok(
        denied.some((line) => line.includes(foreign[at] ?? "") && why.test(line)),
        String(why),
      );
    }
    // The bundle of north again, by a copy of its card.
    const other = await platform.client("@one");
    t.teardown(() => other[Symbol.asyncDispose]());
    const passcode = await other.enrollments.newPasscode({}, forever);
    await writeFile(provisionFile("north"), "");
    const copy = await enrollLike({ device: "north", passcode, proof: northProof });
    t.match(await approve(), {
      code: 0,
      err: new RegExp(`DENIED: the bundle .* of north was used already.*${copy}`, "u"),
    });
    t.match(await stateOf(), { north: "enrolled", south: "bundled" });

    async function enrollLike(what: {
      device: string;
      passcode: Secret;
      proof: NonNullable<Provision["proof"]>;
    }): Promise<string> {
      return await new Promise<string>((resolve, reject) => {
        const stop = new AbortController();
        t.teardown(() => stop.abort());
        enroll(
          {
            ...{ atSign: parseAtSign("@one"), directory: platform.directory, ca: platform.platform.caPem },
            ...{ appName: "atedge", deviceName: what.device, namespaces: { [`${what.device}.atedge`]: "rw" } },
            ...{ passcode: what.passcode, keyFile: file("copy.atKeys"), pollMs: 100_000 },
            proof: (key) => proofOf(what.proof, what.device, key),
            onPending: ({ enrollmentId: id }) => resolve(id),
          },
          stop.signal,
        ).catch((error: unknown) => reject(error as Error));
      });
    }
  });

  t.test("a passcode that is used up is passed over for the next", async (t) => {
    // The first was used up by the request that was denied before.
    const west = provision("west");
    await west.until(({ err }) => (err.includes("waiting for the owner's approval") ? true : undefined), "a request");
    t.match(await approve(), { code: 0, out: /west is in/u, err: "" });
    t.match(await west.ended, { code: 0 });
    // It has no template: what it was given is the least that runs.
    t.match(await start("config", "check", "--config", file("boards", "west.toml")).ended, { code: 0 });
    t.match(await readFile(file("boards", "west.toml"), "utf8"), /^atsign = "@two"\ndevice = "west"\n/u);
  });

  t.test("a retired board opens nothing any more, and its name stays retired", async (t) => {
    t.match(await owner("retire", "west"), { code: 0, out: /west is retired[^]*apt purge/u });
    t.match(await apply(), { code: 1, out: /west: conflict: this name was retired/u });
    t.match(await owner("retire", "east"), { code: 2, err: /there is no "east" in this fleet/u });
  });

  t.test("another board takes the name of a dead one", async (t) => {
    await write("north,s9,@one,board,5s\nsouth,s2,@one,board,9s\n");
    t.match(await apply(), { code: 1, out: /north: conflict: it is enrolled as board s1: `atedge fleet replace`/u });
    t.match(await owner("replace", "north", "--serial", "s9"), { code: 0 });
    t.match(await apply(), { code: 0, out: /north: bundle made/u });
    t.match((await provisionOf("north")).proof, { serial: "s9" });
  });

  t.test("a stolen board closes its atSign until that has new keys", async (t) => {
    t.match(await owner("compromise", "south"), {
      code: 0,
      out: /revoking does not undo that[^]*atedge onboard @one/u,
    });
    t.match(await stateOf(), { north: "compromised", south: "compromised", west: "retired" });
    t.match(await apply(), { code: 1, out: /north: conflict: @one needs new keys first/u });
  });

  t.test("a board goes to another owner", async (t) => {
    await write("east,s4,@one,,\n");
    const started = await fleet("plan", file("boards.csv"));
    t.match(started, { code: 0, out: /east +@one +bundle: new/u });
    t.match(await apply(), { code: 1, out: /east: failed: @one still has the keys that a stolen board had/u });
    t.match(await owner("transfer", "north", "--to", "@two"), { code: 0 });
    await write("north,s9,@two,,\n");
    t.match(await apply(), { code: 0, out: /north: bundle made/u });
    t.match(await fleet("audit"), { code: 0, out: /north {2}transferred {2}@one to @two/u });
  });

  t.test("faults are said in plain words", async (t) => {
    t.match(await fleet("plan", file("none.csv")), { code: 2, err: /none\.csv cannot be read \(ENOENT\)/u });
    await write("x,s4,@nobody,,\n");
    t.match(await apply(), { code: 1, out: /x: failed: .*@nobody.*atedge onboard @nobody/su });
    await writeFile(file("bad.toml"), "x = 1");
    t.match(await start("provision", file("bad.toml")).ended, { code: 1, err: /bad\.toml: atsign is missing/u });
    t.match(await start("provision", file("missing.toml")).ended, { code: 1, err: /cannot be read \(ENOENT\)/u });
  });
});
