import { chmod, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import nacl from "tweetnacl";
import { systemClock } from "../../core/clock.js";
import { silentLog } from "../../core/log.js";
import { Scope } from "../../core/scope.js";
import { esptoolCommand, openExternalFlasher } from "../../firmware-bridge/update/external-flasher.js";
import { signManifest } from "../../firmware-bridge/update/manifest.js";
import { sha256Of, UpdateStore } from "../../firmware-bridge/update/update-store.js";
import { Updater } from "../../firmware-bridge/update/updater.js";

const never = new AbortController().signal;
const signer = nacl.sign.keyPair();
const clock = { ...systemClock, sleep: (ms: number, signal: AbortSignal) => systemClock.sleep(ms / 50, signal) };

/** A board in a file, and a program that writes it: in two halves, and it dies between them while `die` is there. */
async function rig(home: string) {
  const flasher = join(home, "flasher.sh");
  const script = `#!/bin/sh\nhead -c 5 "$1" > "${home}/board.bin"\nif rm "${home}/die" 2>/dev/null; then echo "lost the port" >&2; exit 2; fi\ncp "$1" "${home}/board.bin"\n`;
  await writeFile(flasher, script);
  await chmod(flasher, 0o755);
  await mkdir(join(home, "state"));
  let selfTest: (image: string) => boolean = () => true;
  const open = () =>
    Updater.open({
      target: "esp",
      hardware: "esp32",
      publicKeys: [signer.publicKey],
      store: new UpdateStore(join(home, "state")),
      lease: async () => new Scope(),
      openTarget: async () => {
        const versionOf = (image: Uint8Array): string => Buffer.from(image).toString().split(" ", 1)[0] ?? "";
        const target = await openExternalFlasher({
          command: [flasher, "{image}"],
          folder: join(home, "state"),
          timeoutMs: 5000,
          versionOf,
        });
        const probe = async (): Promise<void> => {
          const { CommandRefused } = await import("../../core/command-errors.js");
          if (!selfTest(await board())) throw new CommandRefused("no answer from the sensor");
        };
        return { ...target, selfTest: probe };
      },
      selfTest: "self-test",
      clock,
      log: silentLog,
    });
  const board = (): Promise<string> => readFile(join(home, "board.bin"), "utf8");
  const install = async (version: string) => {
    const image = Buffer.from(`${version} application`);
    const updater = await open();
    await updater.begin(
      signManifest(
        { target: "esp", hardware: "esp32", version, sha256: sha256Of(image), size: image.length, counter: 0 },
        signer.secretKey,
      ),
    );
    await updater.data(0, image);
    await updater.run(never);
    return (await updater.status()).update;
  };
  return { open, board, install, failIf: (wrong: (image: string) => boolean) => (selfTest = (image) => !wrong(image)) };
}

t.test("A board with one slot, written by a program,", async (t) => {
  const home = t.testdir();
  const { open, board, install, failIf } = await rig(home);

  await t.test("gets its first image, and the next one", async (t) => {
    t.match(await install("1.0.0"), { step: "confirmed" });
    t.equal(await board(), "1.0.0 application");
    t.match(await install("1.1.0"), { step: "confirmed" });
    t.equal(await board(), "1.1.0 application");
  });

  await t.test("is written again when the program dies half-way", async (t) => {
    await writeFile(join(home, "die"), "");
    t.match(await install("1.2.0"), { step: "confirmed" });
    t.equal(await board(), "1.2.0 application");
  });

  await t.test("gets the image before back when the new one fails its self-test", async (t) => {
    failIf((image) => image.startsWith("1.3.0"));
    t.match(await install("1.3.0"), { step: "reverted", reason: /no answer from the sensor/u });
    t.equal(await board(), "1.2.0 application");
  });

  await t.test("goes back when an operator says so", async (t) => {
    t.match(await install("1.4.0"), { step: "confirmed" });
    const updater = await open();
    await updater.rollback();
    await updater.run(never);
    t.match((await updater.status()).update, { step: "confirmed", version: "1.2.0" });
    t.equal(await board(), "1.2.0 application");
  });
});

t.test("esptool is called with the port, the offset and the image, and no shell", async (t) => {
  t.strictSame(esptoolCommand("/dev/ttyUSB0", 460_800), [
    ...[
      "esptool",
      "--port",
      "/dev/ttyUSB0",
      "--baud",
      "460800",
      "--after",
      "hard_reset",
      "write_flash",
      "0x10000",
      "{image}",
    ],
  ]);
});
