import { chmod, readFile, rm, stat, writeFile } from "node:fs/promises";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import * as pty from "@lydell/node-pty";
import t from "tap";
import { openAtClient } from "../../atplatform/client/at-client.js";
import { enroll } from "../../atplatform/client/enroll.js";
import { readAtKeysFile, writeAtKeysFile } from "../../atplatform/crypto/at-keys-file.js";
import { parseAtSign } from "../../atplatform/protocol/at-sign.js";
import { Scope } from "../../core/scope.js";
import { Secret } from "../../core/secret.js";
import { TestPlatform } from "../fixtures/at-platform.js";
import { AtedgeProcess, type Ended } from "../fixtures/atedge-process.js";
import { bundleCli } from "../fixtures/bundled-cli.js";

const forever = new AbortController().signal;
const greenhouse = parseAtSign("@greenhouse");

interface Pending {
  readonly enrollmentId: string;
  readonly fingerprint: string;
}

/** What `enroll --json` has said of its request. */
function pendingIn({ out }: { readonly out: string }): Pending | undefined {
  const line = out.split("\n").find((each) => each.startsWith('{"type":"pending"'));
  return line === undefined ? undefined : (JSON.parse(line) as Pending);
}

t.test("enrolment on the command line", { timeout: 200_000 }, async (t) => {
  const scope = new Scope();
  t.teardown(() => scope[Symbol.asyncDispose]());
  const cli = scope.use(await bundleCli());
  const folder = t.testdir({ platform: {} });
  const file = (name: string): string => join(folder, name);
  const platform = scope.use(await TestPlatform.open(file("platform")));
  await platform.onboard("@greenhouse");
  await platform.onboard("@grower");
  const { caFile = "" } = platform.platform;
  const reach = ["--directory", `localhost:${platform.directory.port}`, "--ca", caFile];
  const asOwner = ["--as", "@greenhouse", "--keys", platform.keyFile("@greenhouse"), ...reach];

  const start = (...args: string[]): AtedgeProcess => scope.use(new AtedgeProcess(cli.path, args));
  const owner = (command: string, ...args: string[]): Promise<Ended> => start(command, ...args, ...asOwner).ended;
  /** A file with a passcode that is good. */
  async function passcode(): Promise<string> {
    const { out } = await owner("otp");
    await writeFile(file("passcode"), out, { mode: 0o600 });
    return file("passcode");
  }
  const enrollArgs = (device: string, passcodeFile: string, ...more: string[]): string[] => [
    ...["enroll", "@greenhouse", "--device", device, "--passcode-file", passcodeFile],
    ...["--keys", file(`${device}.atKeys`), "--poll", "200ms", "--wait", "40s", ...reach, ...more],
  ];
  const asked = (process: AtedgeProcess): Promise<Pending> => process.until(pendingIn, "a request");
  /** A board that is enrolled. @returns its key file. */
  async function enrolled(device: string): Promise<string> {
    const board = start(...enrollArgs(device, await passcode(), "--json"));
    const { fingerprint } = await asked(board);
    t.match(await owner("approve", "--fingerprint", fingerprint), { code: 0 });
    t.match(await board.ended, { code: 0 });
    return file(`${device}.atKeys`);
  }
  const enrollmentsOf = async (device: string): Promise<{ status: string; namespaces: unknown }[]> => {
    const { out } = await owner("enrollments", "--json");
    const all = out
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { device: string; status: string; namespaces: unknown });
    return all.filter((each) => each.device === device);
  };

  t.test("prints a passcode and nothing else", async (t) => {
    t.match(await owner("otp", "--ttl", "10m"), { code: 0, out: /^[A-Z0-9]{6}\n$/u, err: "" });
    t.match(JSON.parse((await owner("otp", "--json")).out), { passcode: /^[A-Z0-9]{6}$/u });
    t.match(await owner("otp", "--ttl", "soon"), { code: 2, err: /Expected a duration/u });
  });

  t.test("lets in the board whose fingerprint the owner names, and says so again when asked again", async (t) => {
    const board = start(...enrollArgs("north", await passcode()));
    const shown = await board.until(
      ({ out }) =>
        /enrolment {4}(?<id>\S+)\n {2}fingerprint {2}(?<fingerprint>sha256:[0-9a-f]{64})\n/u.exec(out)?.groups,
      "a fingerprint",
    );
    const { id = "", fingerprint = "" } = shown;
    t.match(board.out, `atedge approve --as @greenhouse ${id} --fingerprint ${fingerprint}`);

    t.match(await owner("approve", id), { code: 2, err: /--fingerprint/u });
    const wrong = `sha256:${"0".repeat(64)}`;
    t.match(await owner("approve", id, "--fingerprint", wrong), {
      code: 1,
      err: /not approved: .*look at the board/su,
    });
    t.match(await owner("approve", "--device", "south", "--fingerprint", fingerprint), {
      code: 1,
      err: /no request of south waits/u,
    });
    t.match(await owner("enrollments", "--status", "pending"), {
      out: new RegExp(`pending +${id} +atedge on north, north.atedge:rw`, "u"),
    });

    const approved = await owner("approve", id, "--fingerprint", fingerprint);
    t.match(approved, { code: 0, out: `@greenhouse: approved: atedge on north, north.atedge:rw (${id})` });
    t.match(await board.ended, { code: 0, out: /north is enrolled; its keys are in/u });
    t.equal((await stat(file("north.atKeys"))).mode & 0o777, 0o600);
    t.notOk(existsSync(file("north.atKeys.pending")), "what was kept for the request is gone");
    t.same(await enrollmentsOf("north"), [
      {
        enrollmentId: id,
        app: "atedge",
        device: "north",
        namespaces: { "north.atedge": "rw" },
        status: "approved",
        fingerprint,
      },
    ]);

    t.match(await owner("approve", "--fingerprint", fingerprint), { code: 0, out: /was approved already/u });
    t.match(await start(...enrollArgs("north", file("passcode"))).ended, {
      code: 0,
      out: /north is enrolled already/u,
    });
  });

  t.test("keeps the keys within the names of their device", async (t) => {
    const keys = await readAtKeysFile(file("north.atKeys"));
    await using client = await openAtClient(
      { atSign: greenhouse, keys, directory: platform.directory, ca: platform.platform.caPem },
      forever,
    );
    await t.rejects(client.send("update:x.south.atedge@greenhouse 1", {}, forever), { code: "AT0009" });
    t.match(await client.send("update:x.north.atedge@greenhouse 1", {}, forever), /^\d+$/u);
    t.match(await client.enrollments.list({}, forever), [{ deviceName: "north" }], "it sees no other enrolment");
  });

  t.test("does not overwrite keys, of whatever device", async (t) => {
    const before = await readFile(file("north.atKeys"), "utf8");
    const other = start(...enrollArgs("south", file("passcode")), "--keys", file("north.atKeys"));
    t.match(await other.ended, { code: 1, err: /is not overwritten: it is the enrolment of north/u });
    const owners = start(...enrollArgs("south", file("passcode")), "--keys", platform.keyFile("@greenhouse"));
    t.match(await owners.ended, { code: 1, err: /is not overwritten/u });
    t.equal(await readFile(file("north.atKeys"), "utf8"), before);
  });

  t.test("says what is wrong with a passcode, and takes one from standard input", async (t) => {
    await writeFile(file("wrong"), "ABCDEF\n");
    await writeFile(file("empty"), "\n");
    t.match(await start(...enrollArgs("west", file("none"))).ended, {
      code: 1,
      err: /none cannot be read \(ENOENT\)/u,
    });
    t.match(await start(...enrollArgs("west", file("empty"))).ended, { code: 1, err: /empty is empty/u });
    const wrong = await start(...enrollArgs("west", file("wrong"))).ended;
    t.match(wrong, { code: 1, err: /wrong, used up or too old: `atedge otp --as @greenhouse`/u });
    t.notMatch(wrong.out + wrong.err, "ABCDEF");
    const good = (await owner("otp")).out;
    const piped = spawn(process.execPath, [cli.path, ...enrollArgs("west", "-", "--json")], {
      stdio: ["pipe", "pipe", "ignore"],
      env: { ...process.env, NODE_OPTIONS: "" },
    });
    piped.stdin.end(good);
    let request: Pending | undefined;
    for await (const chunk of piped.stdout) if ((request = pendingIn({ out: String(chunk) }))) break;
    piped.kill("SIGKILL");
    const board = start(...enrollArgs("west", "-", "--json"));
    const { enrollmentId } = await asked(board);
    t.equal(enrollmentId, request?.enrollmentId);
    t.match(await owner("deny", enrollmentId), { code: 0, out: /denied: atedge on west/u });
    t.match(await board.ended, { code: 1, err: /denied.*\n.*ask again with a new passcode/u });
    t.match(await owner("deny", "--device", "west"), { code: 0, out: /was denied already/u });
    t.notOk(existsSync(file("west.atKeys")));
  });

  t.test("finds out that the keys cannot be written before anything is asked", async (t) => {
    await writeFile(file("plain"), "");
    const passcodeFile = await passcode();
    const board = start(...enrollArgs("east", passcodeFile), "--keys", join(file("plain"), "east.atKeys"));
    t.match(await board.ended, { code: 1, err: /ENOTDIR.*cannot be written/su });
    t.same(await enrollmentsOf("east"), []);
    const again = start(...enrollArgs("east", passcodeFile, "--json"));
    t.ok((await asked(again)).enrollmentId, "the passcode is still good");
    await again.stop();
  });

  t.test("goes on with the same request after a kill, without the passcode, and after its deadline", async (t) => {
    const passcodeFile = await passcode();
    const first = start(...enrollArgs("attic", passcodeFile, "--json"));
    const request = await asked(first);
    await first.stop("SIGKILL");
    t.equal((await stat(file("attic.atKeys.pending"))).mode & 0o777, 0o600);
    await rm(passcodeFile);
    const impatient = await start(...enrollArgs("attic", passcodeFile, "--json"), "--wait", "1s").ended;
    t.match(impatient, { code: 1, err: /not approved within 1s; .*same command goes on with it/u });
    t.same(pendingIn(impatient), request);
    const third = start(...enrollArgs("attic", passcodeFile, "--json"));
    t.same(await asked(third), request);
    t.match(await owner("approve", request.enrollmentId, "--fingerprint", request.fingerprint, "--json"), { code: 0 });
    t.match(await third.ended, { code: 0, out: /"type":"enrolled".*"already":false/u });
    t.equal((await enrollmentsOf("attic")).length, 1);
  });

  t.test("waits for a platform that is away", async (t) => {
    const passcodeFile = await passcode();
    await platform.stop();
    const board = start(...enrollArgs("cellar", passcodeFile, "--json"));
    await board.until(({ err }) => err.includes("trying again") || undefined, "another attempt");
    await platform.start();
    const { fingerprint } = await asked(board);
    t.match(await owner("approve", "--fingerprint", fingerprint), { code: 0 });
    t.equal((await board.ended).code, 0);
  });

  t.test("asks on a terminal for what the board shows, and does not show it", async (t) => {
    const board = start(...enrollArgs("tower", await passcode(), "--json"));
    const { fingerprint } = await asked(board);
    const approve = async (answer: string): Promise<{ readonly code: number; readonly out: string }> => {
      const args = [cli.path, "approve", "--device", "tower", ...asOwner];
      const env = { ...process.env, NODE_OPTIONS: "" };
      const terminal = pty.spawn(process.execPath, args, { env, cols: 200 });
      let out = "";
      terminal.onData((text) => {
        const before = out;
        out += text;
        if (!before.includes("digits: ") && out.includes("digits: ")) terminal.write(`${answer}\r`);
      });
      return await new Promise((resolve) => terminal.onExit(({ exitCode }) => resolve({ code: exitCode, out })));
    };
    const wrong = await approve("0123456789abcdef");
    t.match(wrong, { code: 1, out: /asks: atedge on tower, tower.atedge:rw/u });
    t.notMatch(wrong.out, fingerprint.slice(7, 20));
    t.match(await approve(fingerprint.slice(7, 13)), { code: 1, out: /at least 16 hex digits/u });
    t.match(await approve(fingerprint.slice(0, 7 + 20)), { code: 0, out: /approved: atedge on tower/u });
    t.equal((await board.ended).code, 0);
  });

  t.test("approves a request for everything only when told so", async (t) => {
    const { out } = await owner("otp");
    const abort = new AbortController();
    const fingerprint = await new Promise<string>((resolve, reject) => {
      enroll(
        {
          ...{
            atSign: greenhouse,
            appName: "manager",
            deviceName: "laptop",
            namespaces: { "*": "rw", __manage: "rw" },
          },
          ...{
            directory: platform.directory,
            ca: platform.platform.caPem,
            keyFile: file("laptop.atKeys"),
            pollMs: 200,
          },
          passcode: new Secret(out.trim()),
          onPending: (request) => resolve(request.fingerprint),
        },
        abort.signal,
      ).catch(reject);
    });
    t.match(await owner("approve", "--fingerprint", fingerprint), {
      code: 1,
      err: /asks for more than a board needs/u,
    });
    t.match(await owner("approve", "--fingerprint", fingerprint, "--manager"), { code: 0 });
    abort.abort();
  });

  t.test("shuts a board out that is revoked, once and for all", async (t) => {
    const keyFile = await enrolled("shed");
    t.match(await owner("revoke"), { code: 2, err: /one of the two/u });
    t.match(await owner("revoke", "--device", "nobody"), { code: 1, err: /no enrolment of atedge on nobody/u });
    t.match(await owner("revoke", "--device", "shed"), { code: 0, out: /revoked: atedge on shed/u });
    t.match(await owner("revoke", "--device", "shed"), { code: 0, out: /was revoked already/u });
    const again = await start(...enrollArgs("shed", file("passcode"))).ended;
    t.match(again, { code: 1, err: /does not take its keys any more \(AT0027\)/u });
    t.match(await owner("unrevoke", "--device", "shed"), { code: 0, out: /: approved: atedge on shed/u });
    t.match(await owner("unrevoke", "--device", "shed"), { code: 0, out: /was approved already/u });
    t.match(await start(...enrollArgs("shed", file("passcode"))).ended, { code: 0, out: /shed is enrolled already/u });
    t.match(await owner("revoke", "--device", "shed", "--json"), {
      code: 0,
      out: /"status":"revoked",.*"already":false/u,
    });
    await rm(keyFile);
    await enrolled("shed");
    t.same((await enrollmentsOf("shed")).map(({ status }) => status).sort(), ["approved", "revoked"]);
    t.match(await owner("unrevoke", "--device", "shed"), { code: 1, err: /several enrolments, name one: .*revoked/u });
  });

  t.test("lets several boards ask with one passcode of the owner's choice", async (t) => {
    await writeFile(file("fleet"), "FLEET\n");
    t.match(await owner("otp", "--set", file("fleet")), { code: 2, err: /six letters and digits/u });
    await writeFile(file("fleet"), "FLEET7\n");
    t.match(await owner("otp", "--set", file("fleet"), "--ttl", "1h"), { code: 0, out: "", err: "" });
    for (const device of ["bay", "loft"]) {
      const board = start(...enrollArgs(device, file("fleet"), "--json"));
      await asked(board);
      await board.stop();
    }
    t.match(await owner("deny", "--device", "bay"), { code: 0 });
    t.match(await owner("deny", "--device", "loft"), { code: 0 });
  });

  t.test("takes keys that are sealed with a passphrase, which it asks for on a terminal", async (t) => {
    const passphrase = "correct horse battery";
    await writeFile(file("passphrase"), `${passphrase}\n`, { mode: 0o600 });
    const keys = await readAtKeysFile(platform.keyFile("@greenhouse"));
    await writeAtKeysFile(file("sealed.atKeys"), greenhouse, keys, { passphrase: new Secret(passphrase) });
    const sealed = ["--as", "@greenhouse", "--keys", file("sealed.atKeys"), ...reach];
    const withFile = (...args: string[]): Promise<Ended> =>
      start("enrollments", ...sealed, "--passphrase-file", ...args).ended;
    t.match(await withFile(file("passphrase")), { code: 0, out: /approved/u });
    t.match(await start("enrollments", ...sealed).ended, { code: 2, err: /is sealed.*--passphrase-file/u });
    await writeFile(file("other"), "incorrect horse", { mode: 0o600 });
    const wrong = await withFile(file("other"));
    t.match(wrong, { code: 1, err: /sealed.atKeys: wrong passphrase or damaged file/u });
    t.notMatch(wrong.err, "incorrect horse");
    await chmod(file("other"), 0o644);
    t.match(await withFile(file("other")), { code: 1, err: /mode 0644.*chmod 600/u });

    const type = async (answer: string): Promise<{ readonly code: number; readonly out: string }> => {
      const env = { ...process.env, NODE_OPTIONS: "" };
      const terminal = pty.spawn(process.execPath, [cli.path, "enrollments", ...sealed], { env, cols: 200 });
      let out = "";
      terminal.onData((text) => {
        const before = out;
        out += text;
        if (!before.includes("Passphrase of ") && out.includes("Passphrase of ")) terminal.write(answer);
      });
      return await new Promise((resolve) => terminal.onExit(({ exitCode }) => resolve({ code: exitCode, out })));
    };
    const typed = await type(`${passphrase}\r`);
    t.match(typed, { code: 0, out: /approved/u });
    t.notMatch(typed.out, "horse", "it is not shown");
    t.match(await type("\u0003"), { code: 1, out: /no passphrase was given/u });
    const growers = await readAtKeysFile(platform.keyFile("@grower"));
    await writeAtKeysFile(file("grower.atKeys"), "@grower", growers, { passphrase: new Secret(passphrase) });
    const asGrower = ["--as", "@grower", "--keys", file("grower.atKeys"), "--state", file("known"), ...reach];
    const watch = start("watch", "@greenhouse/north", ...asGrower, "--passphrase-file", file("passphrase"));
    await watch.until(({ err }) => err.includes("waiting for readings") || undefined, "a reader");
    await watch.stop();
  });

  t.test("seals the keys of a board, and the request that waits, when it is given a passphrase", async (t) => {
    const more = ["--passphrase-file", file("passphrase"), "--json"];
    const first = start(...enrollArgs("vault", await passcode(), ...more));
    const request = await asked(first);
    await first.stop("SIGKILL");
    t.notMatch(await readFile(file("vault.atKeys.pending"), "utf8"), "apkamPrivateKey");
    const board = start(...enrollArgs("vault", file("passcode"), ...more));
    t.same(await asked(board), request, "it goes on with the same request");
    t.match(await owner("approve", "--fingerprint", request.fingerprint), { code: 0 });
    t.match(await board.ended, { code: 0 });
    t.same(Object.keys(JSON.parse(await readFile(file("vault.atKeys"), "utf8")) as object).sort(), [
      ...["content", "hashingAlgoType", "iv"],
    ]);
    const passphrase = new Secret("correct horse battery");
    t.equal((await readAtKeysFile(file("vault.atKeys"), { passphrase })).enrollmentId, request.enrollmentId);
    t.match(await start(...enrollArgs("vault", file("passcode"), ...more)).ended, { out: /"already":true/u });
  });

  t.test("explains keys that are not there and an atSign that nobody knows", async (t) => {
    t.match(await start("otp", "--as", "@greenhouse", "--keys", file("none"), ...reach).ended, {
      code: 1,
      err: /there is no key file .*`atedge onboard @greenhouse`/u,
    });
    const args = enrollArgs("nook", file("wrong")).map((arg) => (arg === "@greenhouse" ? "@grenhouse" : arg));
    t.match(await start(...args).ended, { code: 1, err: /does not know @grenhouse: look at the spelling/u });
    const untrusting = enrollArgs("nook", file("wrong")).slice(0, -2);
    t.match(await start(...untrusting).ended, { code: 1, err: /name it with --ca FILE/u });
  });
});
