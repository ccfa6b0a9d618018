import { chmod, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import nacl from "tweetnacl";
import * as v from "valibot";
import { systemClock } from "../../core/clock.js";
import type { DriverDeps } from "../../core/driver.js";
import { silentLog } from "../../core/log.js";
import { ESPTOOL } from "../../firmware-bridge/flasher/config.js";
import { bridgeOpener, bridgeSchemas } from "../../firmware-bridge/registry.js";
import { signManifest } from "../../firmware-bridge/update/manifest.js";
import { sha256Of } from "../../firmware-bridge/update/update-store.js";

const never = new AbortController().signal;
const signer = nacl.sign.keyPair();
const clock = {
  ...systemClock,
  sleep: (ms: number, signal: AbortSignal) => systemClock.sleep(ms / 50, signal),
  // A probe has a minute; here a second.
  monotonicMs: () => systemClock.monotonicMs() * 50,
};

/**
 * A board in a file, and two programs. One writes it, in two halves, and dies between them while `die` is there. The
 * other looks whether it works: not when it holds the word `bad`, and not at all while `gone` is there.
 */
async function rig(home: string) {
  const flasher = join(home, "flasher.sh");
  const probe = join(home, "probe.sh");
  await writeFile(
    flasher,
    `#!/bin/sh
echo "$@" >> "${home}/calls"
head -c 5 "$2" > "${home}/board.bin"
if grep -q unwritable "$2" || rm "${home}/die" 2>/dev/null; then echo "lost the port" >&2; exit 2; fi
cp "$2" "${home}/board.bin"
`,
  );
  await writeFile(
    probe,
    `#!/bin/sh
echo "probe $@" >> "${home}/calls"
if grep -q bad "${home}/board.bin"; then echo "no answer from the sensor" >&2; exit 1; fi
`,
  );
  await chmod(flasher, 0o755);
  await chmod(probe, 0o755);
  await mkdir(join(home, "state"));
  const leases: string[] = [];
  const deps: DriverDeps = {
    publish: async () => undefined,
    openPort: async () => Promise.reject(new Error("the program opens the port")),
    leasePort: async (path) => {
      leases.push(`lease ${path}`);
      return { [Symbol.asyncDispose]: async () => void leases.push("end") };
    },
    clock,
    log: silentLog,
    stateDir: async () => join(home, "state"),
  };
  const config = v.parse(bridgeSchemas.flasher, {
    id: "esp",
    type: "flasher",
    path: "/dev/ttyUSB0",
    hardware: "esp32",
    flash: [flasher, "{port}", "{image}", "--as={version}"],
    probe: [probe, "{port}", "{version}"],
    timeoutMs: 5000,
    firmware: { keys: [Buffer.from(signer.publicKey).toString("base64")] },
  });
  const driver = await bridgeOpener(config)(deps, never);
  const stop = new AbortController();
  const running = driver.run(stop.signal);
  const board = (): Promise<string> => readFile(join(home, "board.bin"), "utf8");
  const end = async () => {
    for (;;) {
      const { update } = (await driver.call("firmware-status", {}, never)) as { update?: { step: string } };
      if (update && ["confirmed", "reverted", "rejected"].includes(update.step)) return update;
      await sleep(5);
    }
  };
  const install = async (version: string, text = "application") => {
    const image = Buffer.from(`${version} ${text}`);
    const manifest = { target: "esp", hardware: "esp32", version, sha256: sha256Of(image), size: image.length };
    const signed = signManifest({ ...manifest, counter: 0 }, signer.secretKey);
    await driver.call("firmware-begin", { ...signed }, never);
    await driver.call("firmware-data", { offset: 0, data: image.toString("base64") }, never);
    return end();
  };
  return {
    driver,
    leases,
    board,
    install,
    end,
    calls: async () => (await readFile(join(home, "calls"), "utf8")).trim().split("\n"),
    async [Symbol.asyncDispose]() {
      stop.abort();
      await running;
      await driver[Symbol.asyncDispose]();
    },
  };
}

t.test("A board that a program writes", async (t) => {
  const home = t.testdir();
  await using site = await rig(home);
  const { driver, board, install } = site;

  await t.test("gets its first image, and the next one, under a lease of the port", async (t) => {
    t.match(await install("1.0.0"), { step: "confirmed", version: "1.0.0" });
    t.equal(await board(), "1.0.0 application");
    t.match(await install("1.1.0"), { step: "confirmed", previousVersion: "1.0.0" });
    t.equal(await board(), "1.1.0 application");
    while (site.leases.length < 4) await sleep(2); // the end is told a moment before the port is free
    t.strictSame(site.leases, ["lease /dev/ttyUSB0", "end", "lease /dev/ttyUSB0", "end"]);
    const [flashed = "", probed] = await site.calls();
    t.match(flashed, /^\/dev\/ttyUSB0 \/.*\/image-[0-9a-f]{64}\.bin --as=1\.0\.0$/u, "no shell, all filled in");
    t.equal(probed, "probe /dev/ttyUSB0 1.0.0");
    t.match(await driver.call("images", {}, never), [{ version: "1.1.0", active: true, confirmed: true }]);
  });

  await t.test("is written again when the program dies half-way", async (t) => {
    await writeFile(join(home, "die"), "");
    t.match(await install("1.2.0"), { step: "confirmed" });
    t.equal(await board(), "1.2.0 application");
  });

  await t.test("gets the image before back when the program cannot write the new one", async (t) => {
    const before = (await site.calls()).length;
    t.match(await install("1.2.1", "unwritable"), { step: "reverted" });
    t.equal(await board(), "1.2.0 application");
    const tried = (await site.calls()).slice(before).filter((line) => line.includes("--as=1.2.1"));
    t.equal(tried.length, 5, "not for ever");
  });

  await t.test("gets the image before back when the new one does not work", async (t) => {
    t.match(await install("1.3.0", "bad"), { step: "reverted", reason: /no answer from the sensor/u });
    t.equal(await board(), "1.2.0 application");
  });

  await t.test("gets it back, too, when nobody can tell whether the new one works", async (t) => {
    await chmod(join(home, "probe.sh"), 0o600);
    t.match(await install("1.3.1"), { step: "reverted", reason: /gave no answer/u });
    t.equal(await board(), "1.2.0 application");
    await chmod(join(home, "probe.sh"), 0o755);
  });

  await t.test("goes back when an operator says so, and takes a refused command for what it is", async (t) => {
    t.match(await install("1.4.0"), { step: "confirmed" });
    await driver.call("firmware-rollback", {}, never);
    t.match(await site.end(), { step: "confirmed", version: "1.2.0" });
    t.equal(await board(), "1.2.0 application");
    await t.rejects(driver.call("relay", {}, never), { code: "COMMAND_REFUSED" });
  });

  await t.test("takes no firmware while its memory is damaged, and forgets no floor", async (t) => {
    const memory = join(home, "state", "firmware.json");
    const kept = await readFile(memory);
    await writeFile(memory, kept.subarray(0, 40));
    const open = bridgeOpener(
      v.parse(bridgeSchemas.flasher, {
        id: "esp",
        type: "flasher",
        path: "/dev/ttyUSB0",
        hardware: "esp32",
        firmware: { keys: [Buffer.from(signer.publicKey).toString("base64")] },
      }),
    );
    const deps: DriverDeps = {
      publish: async () => undefined,
      openPort: async () => Promise.reject(new Error("not to be opened")),
      clock,
      log: silentLog,
      stateDir: async () => join(home, "state"),
    };
    const damaged = await open(deps, never);
    await t.rejects(damaged.call("firmware-status", {}, never), {
      code: "COMMAND_REFUSED",
      message: /firmware\.json is damaged/u,
    });
    await writeFile(memory, kept);
  });
});

t.test("esptool is what writes a board unless the configuration says otherwise", async (t) => {
  const { flash } = v.parse(bridgeSchemas.flasher, {
    id: "esp",
    type: "flasher",
    path: "/dev/ttyUSB0",
    hardware: "esp32",
    firmware: { keys: [Buffer.from(signer.publicKey).toString("base64")] },
  });
  t.strictSame(flash, ESPTOOL);
  t.equal(
    flash.join(" "),
    "esptool --port {port} --baud 460800 --after hard_reset write_flash 0x10000 {image}",
    "as its documentation writes it",
  );
});
