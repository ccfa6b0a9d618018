import { join } from "node:path";
import t from "tap";
import type { RecordingProxy } from "../fixtures/recording-proxy.js";
import { proxyAtServers, Whole } from "../fixtures/whole.js";

t.test("atServers that flip bits are found out, and lose nothing once they stop", { timeout: 110_000 }, async (t) => {
  // Which notifications to spoil on their way from an atServer to its own client.
  let spoiled: RegExp | undefined;
  let flips = 0;
  const tamper = (chunk: Buffer, toClient: boolean): Buffer => {
    const found = toClient && spoiled?.exec(chunk.toString("latin1"));
    if (!found) return chunk;
    const changed = Buffer.from(chunk);
    // One bit of the base64 text, well within the ciphertext.
    const at = found.index + found[0].length + 40;
    changed[at] = "ABCDEFGH".charCodeAt(("ABCDEFGH".indexOf(String.fromCharCode(changed[at] ?? 0)) + 1) % 8);
    flips += 1;
    return changed;
  };
  const proxies: RecordingProxy[] = [];
  t.teardown(async () => {
    for (const proxy of proxies) await proxy[Symbol.asyncDispose]();
  });
  const beforeAgent: Parameters<typeof Whole.start>[0]["beforeAgent"] = async (site) =>
    void proxies.push(...(await proxyAtServers(site, tamper)));
  await using whole = await Whole.start({ rateHz: 10, beforeAgent });
  await until(() => whole.numbersSeen("board").length > 20, "readings come");

  spoiled = /"key":"@grower:telemetry\.[^"]*","value":"/u;
  await until(() => whole.refused.length > 2, "spoiled telemetry is refused");
  spoiled = undefined;
  t.ok(flips > 2, `${flips} bits were flipped`);
  for (const event of whole.refused) t.match(event, { reason: /^(bad-seal|undecryptable)$/u });

  spoiled = /"key":"@greenhouse:receipt\.[^"]*","value":"/u;
  flips = 0;
  await until(() => flips > 1, "receipts are spoiled");
  const agentLog = (): string => whole.log("agent");
  await until(
    () =>
      /receipt[^\n]*(SEAL_INVALID|bad-seal|DECRYPTION_FAILED|undecryptable)|(SEAL_INVALID|bad-seal|DECRYPTION_FAILED|undecryptable)[^\n]*receipt/iu.test(
        agentLog(),
      ),
    "the agent says that it refuses a receipt",
  );
  const before = await unreceipted(whole);
  await until(async () => (await unreceipted(whole)) > before, "nothing is trimmed meanwhile");
  const most = await unreceipted(whole);
  spoiled = undefined;
  await until(async () => (await unreceipted(whole)) < most, "honest receipts free the outbox again");

  await whole.stopSensors();
  for (const driver of ["board", "bench"] as const)
    t.same(await whole.missing(driver, 40_000), [], `all of ${driver} arrived`);

  async function until(holds: () => boolean | Promise<boolean>, what: string): Promise<void> {
    for (let tries = 0; tries < 600 && !(await holds()); tries++)
      await new Promise((resolve) => setTimeout(resolve, 50));
    t.ok(await holds(), what);
  }
});

async function unreceipted(whole: Whole): Promise<number> {
  const outbox = await whole.openCopy(join(whole.folder, "agent", "outbox.db"));
  const count = outbox.prepare("SELECT count(*) FROM message").pluck().get() as number;
  outbox.close();
  return count;
}
