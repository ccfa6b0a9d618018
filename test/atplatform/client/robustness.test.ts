import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { parseAtSign } from "../../../atplatform/protocol/at-sign.js";
import { TestPlatform } from "../../fixtures/at-platform.js";
import { openCuttingProxy } from "../../fixtures/cutting-proxy.js";
import { compileProgram, root, SdkProgram } from "../../fixtures/sdk-program.js";
import { seededRandom } from "../../fixtures/seeded-random.js";

const NOTIFICATIONS = 800; // and as many records written and read: 2,400 operations
const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000);

interface Said {
  readonly accepted?: string;
  readonly received?: string;
  readonly text?: string;
  readonly done?: boolean;
  readonly connections?: number;
}

t.test("two processes whose connections are cut at random bytes", { timeout: 110_000 }, async (t) => {
  t.comment(`seed ${seed}: repeat with SEED=${seed}`);
  const random = seededRandom(seed);
  // Some in the handshake or login, most in the middle of commands, answers and notifications.
  const nextLimit = (): number => Math.round(random() < 0.15 ? random() * 6_000 : 6_000 + random() * 40_000);
  const folder = t.testdir({ state: {}, programs: {} });
  await using platform = await TestPlatform.open(join(folder, "state"));
  const proxies = new Map<string, Awaited<ReturnType<typeof openCuttingProxy>>>();
  for (const name of ["@alice", "@bob"]) {
    await platform.onboard(name);
    const { port } = platform.platform.list().find(({ atSign }) => atSign === parseAtSign(name)) ?? { port: 0 };
    proxies.set(name, await openCuttingProxy(port, nextLimit));
  }
  const program = await compileProgram(
    join(root, "test", "fixtures", "sdk-cut-child.ts"),
    join(folder, "programs"),
    "cut",
  );
  const started = (role: string, name: string): SdkProgram => {
    const address = `proxy:localhost:${proxies.get(name)?.port ?? 0}`;
    const ca = Buffer.from(platform.platform.caPem).toString("base64");
    return new SdkProgram(program, {}, [role, name, platform.keyFile(name), address, ca, String(NOTIFICATIONS)]);
  };
  await using receiver = started("receive", "@bob");
  await using sender = started("send", "@alice");
  const said = (program: SdkProgram): readonly Said[] => program.lines.map((line) => JSON.parse(line) as Said);

  await sender.until(/"done":true/u);
  const accepted = new Map(said(sender).flatMap(({ accepted: id, text }) => (id === undefined ? [] : [[id, text]])));
  const receivedIds = (): readonly string[] => said(receiver).flatMap(({ received }) => received ?? []);
  for (const proxy of proxies.values()) proxy.heal();
  const until = Date.now() + 40_000;
  while (new Set(receivedIds()).size < accepted.size && Date.now() < until) await sleep(50);

  const received = said(receiver);
  const cuts = [...proxies.values()].map((proxy) => proxy.cuts);
  const { connections } = said(sender).find(({ done }) => done) ?? {};
  t.comment(`${cuts.join(" and ")} connections cut, ${connections ?? 0} logins of the sender`);
  t.ok(
    cuts.every((count) => count > 20),
    "many connections were cut on both sides",
  );
  t.equal(accepted.size, NOTIFICATIONS, "the sender got an answer to each request, and each was its own");
  t.same(
    [...accepted.keys()].filter((id) => !receivedIds().includes(id)),
    [],
    "nothing that was accepted was lost",
  );
  t.equal(new Set(receivedIds()).size, receivedIds().length, "nothing was given to the application twice");
  t.same(
    received.filter(({ received: id, text }) => accepted.get(id ?? "") !== text),
    [],
    "nothing came out changed",
  );
  for (const proxy of proxies.values()) await proxy[Symbol.asyncDispose]();
});
