import { createHash } from "node:crypto";
import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import nacl from "tweetnacl";
import { compareVersions } from "../../core/compare-versions.js";
import type { Driver } from "../../core/driver.js";
import { openLinkDriver } from "../../firmware-bridge/link/link-driver.js";
import { type Manifest, openManifest, signManifest } from "../../firmware-bridge/update/manifest.js";
import { UPDATE_STEPS } from "../../firmware-bridge/update/update-store.js";
import { BoardProcess, imageOf, installImage } from "./board-process.js";
import { Host, linkConfig, never, until } from "./link-rig.js";
import { buildUpdateChild, CASES, FAULTS, runCases } from "./update-faults.js";

const signer = nacl.sign.keyPair();
const keys = [Buffer.from(signer.publicKey).toString("base64")];
const firmware = { keys, selfTest: "self-test" };
/** Firmware on trial goes back by itself after this. */
const TRIAL_MS = "20000";

interface Status {
  readonly floor: number;
  readonly update?: { readonly step: string; readonly reason?: string; readonly version: string };
}

const manifestOf = (image: Uint8Array, more: Partial<Manifest> = {}) =>
  signManifest(
    {
      target: "board",
      hardware: "host-board",
      version: "2.0.0",
      sha256: createHash("sha256").update(image).digest("hex"),
      size: image.length,
      counter: 1,
      ...more,
    },
    signer.secretKey,
  );

/** A paired board that runs 1.0.0 from its first slot. */
async function rigOf() {
  const host = await Host.create();
  let board = await BoardProcess.start({ args: ["-r", "0"] });
  await host.pair(board);
  await board.kill();
  const { folder } = board;
  await installImage(folder, imageOf("G", "1.0.0"));
  const start = async (): Promise<BoardProcess> =>
    (board = await BoardProcess.start({ args: ["-r", "0", "-T", TRIAL_MS], folder }));
  await start();
  return {
    host,
    folder,
    get board() {
      return board;
    },
    async powerCut() {
      await board.kill();
      await start();
    },
    async [Symbol.asyncDispose]() {
      await board[Symbol.asyncDispose]();
      await host[Symbol.asyncDispose]();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

type Rig = Awaited<ReturnType<typeof rigOf>>;

/** Runs the driver as a supervisor does, opening it again whenever it ends, while `work` uses the latest. */
async function supervised<T>(
  rig: Rig,
  work: (call: (command: string, args?: Record<string, unknown>) => Promise<unknown>) => Promise<T>,
): Promise<T> {
  const stop = new AbortController();
  let driver: Driver | undefined;
  const loop = (async () => {
    while (!stop.signal.aborted) {
      try {
        const config = linkConfig(rig.board, { firmware, keepAliveMs: 300, openTimeoutMs: 3000 });
        driver = await openLinkDriver(config, rig.host.deps(), stop.signal);
        await driver.run(stop.signal);
      } catch {
        // The board is away; a moment later.
      }
      await driver?.[Symbol.asyncDispose]();
      driver = undefined;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  })();
  const call = async (command: string, args: Record<string, unknown> = {}): Promise<unknown> => {
    await until(() => driver !== undefined, "the driver");
    return driver?.call(command, args, never);
  };
  try {
    return await work(call);
  } finally {
    stop.abort();
    await loop;
  }
}

async function push(
  call: (command: string, args: Record<string, unknown>) => Promise<unknown>,
  image: Uint8Array,
  signed = manifestOf(image),
): Promise<void> {
  let { offset } = (await call("firmware-begin", { ...signed })) as { offset: number };
  while (offset < image.length) {
    const data = Buffer.from(image.subarray(offset, offset + 4096)).toString("base64");
    ({ offset } = (await call("firmware-data", { offset, data })) as { offset: number });
  }
}

const ended = new Set(["confirmed", "reverted", "rejected"]);

async function endOf(call: (command: string) => Promise<unknown>): Promise<Status["update"]> {
  let status: Status | undefined;
  const endMs = Date.now() + 40_000;
  while (!ended.has(status?.update?.step ?? "")) {
    if (Date.now() > endMs) throw new Error(`no end: ${JSON.stringify(status)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
    status = (await call("firmware-status").catch(() => status)) as Status | undefined;
  }
  return status?.update;
}

/** The version that the board started with last. */
const running = (board: BoardProcess): string | undefined =>
  board.lines
    .map((line) => /^boot slot=\d version=(\S+)/u.exec(line)?.[1])
    .filter(Boolean)
    .at(-1);

t.test("Manifests", async (t) => {
  t.test("are taken only with a signature of an allowed key over their exact text", async (t) => {
    const signed = manifestOf(imageOf("G", "2.0.0"));
    t.equal(openManifest(signed, [nacl.sign.keyPair().publicKey, signer.publicKey]).version, "2.0.0");
    t.throws(() => openManifest(signed, [nacl.sign.keyPair().publicKey]), { code: "MANIFEST_REFUSED" });
    t.throws(() => openManifest({ ...signed, signed: signed.signed.replace("2.0.0", "2.0.1") }, [signer.publicKey]), {
      code: "MANIFEST_REFUSED",
    });
    t.throws(() => openManifest({ ...signed, signature: "AAAA" }, [signer.publicKey]), { code: "MANIFEST_REFUSED" });
    t.throws(() => openManifest({ ...signed, signature: "no base64" }, [signer.publicKey]), {
      code: "MANIFEST_REFUSED",
    });
    const other = JSON.stringify({ ...(JSON.parse(signed.signed) as object), typ: "atedge-cmd/1" });
    const signature = Buffer.from(nacl.sign.detached(Buffer.from(other), signer.secretKey)).toString("base64");
    t.throws(() => openManifest({ signed: other, signature }, [signer.publicKey]), {
      code: "SYNTAX_INVALID",
      message: /manifest\.typ/u,
    });
    t.throws(() => manifestOf(imageOf("G", "1"), { size: 0 }), { message: /manifest\.size/u });
  });

  t.test("compare versions by their numbers", async (t) => {
    const order = ["0.9", "1.0.0-rc1", "1.0.1", "1.2", "1.10.0", "2"];
    for (let at = 1; at < order.length; at += 1) t.ok(compareVersions(order[at - 1] ?? "", order[at] ?? "") < 0);
    t.equal(compareVersions("1.0", "1.0.0"), 0);
  });
});

t.test("An update", async (t) => {
  t.test("brings a board from one version to the next, goes back when told, and not below the seal", async (t) => {
    await using rig = await rigOf();
    await supervised(rig, async (call) => {
      const image = imageOf("G", "2.0.0", 50_000);
      const signed = manifestOf(image);
      // The operator's line is cut after the first pieces: the second push goes on.
      await call("firmware-begin", { ...signed });
      await call("firmware-data", { offset: 0, data: Buffer.from(image.subarray(0, 4096)).toString("base64") });
      t.strictSame(await call("firmware-begin", { ...signed }), { offset: 4096 });
      await t.rejects(call("firmware-seal"), { code: "COMMAND_REFUSED" });
      const meanwhile = until(() => rig.host.logged.some((line) => line["step"] === "leased"), "leased").then(() =>
        call("relay", { on: true }),
      );
      meanwhile.catch(() => undefined); // looked at below
      await push(call, image, signed);
      await t.rejects(meanwhile, { code: "COMMAND_REFUSED", message: /a firmware update is under way/u });
      t.match(await endOf(call), { step: "confirmed", version: "2.0.0", previousVersion: "1.0.0" });
      t.strictSame(await call("relay", { on: true }), { on: true });
      t.equal(running(rig.board), "2.0.0");
      await call("firmware-rollback");
      t.match(await endOf(call), { step: "confirmed", version: "1.0.0" });
      t.equal(running(rig.board), "1.0.0");
      const next = imageOf("G", "2.1.0");
      await push(call, next, manifestOf(next, { version: "2.1.0", counter: 5, minVersion: "1.0.0" }));
      t.match(await endOf(call), { step: "confirmed", version: "2.1.0" });
      t.strictSame(await call("firmware-seal"), { floor: 5 });
      await t.rejects(call("firmware-rollback"), { code: "COMMAND_REFUSED", message: /below the sealed floor 5/u });
      await t.rejects(push(call, image, signed), { code: "COMMAND_REFUSED", message: /below the sealed floor 5/u });
    });
    t.equal(running(rig.board), "2.1.0");
    await rig.powerCut();
    t.equal(running(rig.board), "2.1.0", "it stays through a power cut");
    t.equal(await rig.board.end(), 0, rig.board.errors);
  });

  t.test(
    "is refused when it is not for this board, not signed by an allowed key, or not what was signed",
    async (t) => {
      await using rig = await rigOf();
      await supervised(rig, async (call) => {
        const image = imageOf("G", "2.0.0");
        const foreign = signManifest(
          { ...(JSON.parse(manifestOf(image).signed) as Manifest) },
          nacl.sign.keyPair().secretKey,
        );
        const refused: [string, RegExp][] = [
          [JSON.stringify(foreign), /not signed by a key/u],
          [JSON.stringify(manifestOf(image, { target: "pump" })), /for pump, not for board/u],
          [JSON.stringify(manifestOf(image, { hardware: "nrf52" })), /the board is a host-board/u],
        ];
        for (const [signed, message] of refused) {
          await t.rejects(call("firmware-begin", JSON.parse(signed) as Record<string, unknown>), {
            code: "COMMAND_REFUSED",
            message,
          });
        }
        const changed = Uint8Array.from(image);
        changed[1000] = 1;
        await push(call, changed, manifestOf(image));
        t.match(await endOf(call), { step: "rejected", reason: /SHA-256 differs/u });
        await push(call, image, manifestOf(image, { minVersion: "1.5.0" }));
        t.match(await endOf(call), { step: "rejected", reason: /needs 1\.5\.0 first/u });
        t.equal(running(rig.board), "1.0.0");
      });
    },
  );

  for (const [behaviour, what, reason] of [
    ["S", "fails its self-test", /self-test failed: the sensor does not answer/u],
    ["X", "crashes while it starts", /went back by itself/u],
    ["L", "never speaks", /went back by itself/u],
  ] as const) {
    t.test(`to a firmware that ${what} ends with the old one, and says why`, async (t) => {
      await using rig = await rigOf();
      await supervised(rig, async (call) => {
        await push(call, imageOf(behaviour, "2.0.0"));
        t.match(await endOf(call), { step: "reverted", reason });
        t.equal(running(rig.board), "1.0.0");
        t.ok(
          rig.board.lines.some((line) => /version=2\.0\.0 trial=1/u.test(line)),
          "it was tried",
        );
        t.equal(await call("self-test"), "passed");
      });
      t.equal(await rig.board.end(), 0, rig.board.errors);
    });
  }

  t.test("to a firmware that says another version than its manifest ends with the old one", async (t) => {
    await using rig = await rigOf();
    await supervised(rig, async (call) => {
      await push(call, imageOf("G", "2.0.9"));
      t.match(await endOf(call), { step: "reverted", reason: /says version 2\.0\.9/u });
      t.equal(running(rig.board), "1.0.0");
    });
  });
});

t.test("An image that the board's flash corrupts is not booted", async (t) => {
  await using rig = await rigOf();
  await supervised(rig, async (call) => {
    const corrupt = until(() => rig.host.logged.some((line) => line["step"] === "leased"), "leased").then(async () => {
      const slot = join(rig.folder, "slot1.bin");
      await until(() => rig.host.logged.length > 0, "anything");
      for (;;) {
        const bytes = await readFile(slot).catch(() => Buffer.alloc(0));
        if (bytes.length > 1000) {
          bytes[500] = (bytes[500] ?? 0) ^ 0xff;
          await writeFile(slot, bytes, { flag: "r+" });
          return;
        }
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    });
    await push(call, imageOf("G", "2.0.0", 200_000));
    await corrupt;
    t.match(await endOf(call), { step: "rejected", reason: /hash differs/u });
    t.equal(running(rig.board), "1.0.0");
    await push(call, imageOf("G", "2.0.0", 30_000));
    t.match(await endOf(call), { step: "confirmed" }, "the next try is a fresh one");
  });
});

t.test("Every fault at every step of the way ends with the old or the new firmware, and is told", async (t) => {
  for (const step of UPDATE_STEPS) {
    const faults = CASES.filter((one) => one.way === "update" && one.step === step).map(({ fault }) => fault);
    t.strictSame(faults, FAULTS, `${step} is killed, cut and corrupted`);
  }
  const program = await buildUpdateChild();
  let bricked = 0;
  await runCases(program, CASES, 4, ({ way, step, fault }, { faults, end, hit }) => {
    const what = `${way}, ${fault} at ${step}: ${end}`;
    t.strictSame(faults, [], what);
    t.ok(hit, `${what}: the fault came`);
    if (faults.length > 0) bricked += 1;
  });
  t.comment(`${bricked} bricked of ${CASES.length}`);
});
