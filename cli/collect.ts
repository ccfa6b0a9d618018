import { InvalidArgumentError, type Command } from "commander";
import { interruption, withRemoteOptions, type RemoteOptions } from "./remote-options.js";

interface CollectCliOptions extends RemoteOptions {
  readonly consumer: string;
  readonly out?: string;
  readonly keepDays: number;
}

const EXAMPLES = `
Examples:
  atedge collect @greenhouse --as @grower --state /var/lib/atedge-collect --out /var/lib/atedge-collect/readings
  atedge collect @greenhouse/north @barn --as @grower | my-importer

One line a reading, SenML (RFC 8428): {"bn":"greenhouse/north/","n":"board/temperature","u":"Cel","v":20.5,"t":…}, with its
place in the stream. A line is written, and with --out on the disk, before the device gets a receipt for it; after a
crash some come twice, with the same stream, inc, seq and i.`;

export function register(program: Command): void {
  withRemoteOptions(program.command("collect"))
    .description("collect the readings of many devices, as SenML lines, and give receipts for them")
    .argument("<subject...>", "@owner for all devices of an atSign that write to you, or @owner/device")
    .option("--consumer <name>", "the name on the receipts: consumer of your [[reader]] on the devices", "collector")
    .option("--out <folder>", "a file a day there, instead of standard output")
    .option("--keep-days <days>", "how long files stay there", parseDays, 30)
    .addHelpText("after", EXAMPLES)
    .action(async (subjects: string[], options: CollectCliOptions) => {
      const path = await import("node:path");
      const { openLog } = await import("../agent/log.js");
      const { parseAtSign } = await import("../atplatform/protocol/at-sign.js");
      const { makeFolder } = await import("../core/make-folder.js");
      const { parseConsumer } = await import("../messages/receipt.js");
      const { parseAddress } = await import("../messages/names.js");
      const { collect } = await import("../remote/collect.js");
      const { CollectFile } = await import("../remote/collect-file.js");
      const { defaultStateDir } = await import("../remote/pin-file.js");
      const { openDailyFiles, standardOutput } = await import("../remote/senml-lines.js");
      const { openLogin } = await import("../remote/session.js");
      const { askedPassphrase } = await import("./passphrase.js");
      const { giveServiceSigns } = await import("./service-signs.js");
      const { ns, out, keepDays, passphraseFile, verbose, state = defaultStateDir() } = options;
      const wanted = subjects.map((text) => {
        const [owner = "", device, ...rest] = text.split("/");
        if (rest.length > 0) throw new InvalidArgumentError(`expected @owner or @owner/device, got ${text}`);
        return { owner: parseAtSign(owner), ...(device !== undefined && { device: parseAddress(device, ns).device }) };
      });
      const consumer = parseConsumer(options.consumer);
      const signal = interruption();
      const log = openLog({ level: verbose ? "debug" : "info" });
      await makeFolder(state);
      const passphrase = askedPassphrase(passphraseFile);
      await using login = await openLogin({ ...options, state, log, passphrase }, signal);
      await using file = await CollectFile.open(path.join(state, "collect.db"));
      await using sink = out === undefined ? standardOutput() : await openDailyFiles(out, keepDays);
      giveServiceSigns(log, signal);
      const onDevice = (owner: string, device: string): void => log.info({ owner, device }, "following a device");
      await collect({ login, subjects: wanted, ns, consumer, file, sink, log, onDevice }, signal).catch(
        (error: unknown) => {
          if (!signal.aborted) throw error;
        },
      );
    });
}

function parseDays(text: string): number {
  const days = Number(text);
  if (Number.isInteger(days) && days >= 1 && days <= 36_500) return days;
  throw new InvalidArgumentError("Expected days, 1 or more.");
}
