import t from "tap";
import type { AtClient, ReceivedNotification } from "../../../atplatform/client/at-client.js";
import { parseAtSign } from "../../../atplatform/protocol/at-sign.js";
import { codeOf } from "../../../core/errors.js";
import { TestPlatform } from "../../fixtures/at-platform.js";
import { type CuttingProxy, openCuttingProxy } from "../../fixtures/cutting-proxy.js";

const never = new AbortController().signal;
const bob = parseAtSign("@bob");
const NOTIFICATIONS = 300;
const RECORDS = 300;
const LINES_AT_ONCE = 4;

/** Numbers from a seed (mulberry32), so that a failure can be had again. */
function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Until it succeeds: every failure of a link has a code, and anything else is a fault of ours. */
async function insist<T>(work: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (codeOf(error) === undefined) throw error;
    }
  }
}

t.test("with connections cut at random bytes", async (t) => {
  const seed = Number(process.env.SEED ?? Date.now() % 2 ** 32);
  t.comment(`SEED=${seed}`);
  const random = randomFrom(seed);
  await using platform = await TestPlatform.open(t.testdir());
  await platform.onboard("@alice");
  await platform.onboard("@bob");
  const portOf = (name: string): number => platform.platform.list().find(({ atSign }) => atSign === name)?.port ?? 0;
  // A handshake and login take some 6 kB, so that most connections come to work, and some do not.
  const limit = (): number => 2_000 + Math.floor(random() * 40_000);
  await using alicesLine = await openCuttingProxy(portOf("@alice"), limit);
  await using bobsLine = await openCuttingProxy(portOf("@bob"), limit);
  const through = (proxy: CuttingProxy) =>
    ({
      directory: { kind: "proxy", host: "localhost", port: proxy.port },
      reconnect: { firstMs: 1, maxMs: 20 },
    }) as const;
  await using sender = await platform.client("@alice", through(alicesLine));
  await using receiver = await platform.client("@bob", through(bobsLine));

  await t.test("nothing that was acknowledged is lost, and nothing comes twice", async (t) => {
    const got: string[] = [];
    const source = receiver.subscribe({ regex: "n\\.demo@", since: "stored" }, never);
    const textOf = (notification: ReceivedNotification): Promise<string> =>
      insist(async () => (await notification.decrypt(never)).text);
    const receiving = (async (): Promise<void> => {
      while (got.length < NOTIFICATIONS) {
        const next = await source.next();
        if (next.done) throw new Error("it has ended");
        got.push(await textOf(next.value));
      }
    })();
    for (let n = 0; n < NOTIFICATIONS; n += 1) {
      const id = `00000000-0000-4000-8000-${String(n).padStart(12, "0")}`;
      await insist(() => sender.notify({ id, to: bob, key: "n.demo", value: `n${n}`, ttlnMs: 600_000 }, never));
    }
    await receiving;
    t.same([...got].sort(), Array.from({ length: NOTIFICATIONS }, (_, n) => `n${n}`).sort());
    t.ok(alicesLine.cuts >= 5, `${alicesLine.cuts} cuts at the sender`);
    t.ok(bobsLine.cuts >= 5, `${bobsLine.cuts} cuts at the receiver`);
    await source.return();
  });

  await t.test("no answer is given to another command", async (t) => {
    const cutsBefore = alicesLine.cuts;
    const wrong: string[] = [];
    const work = async (client: AtClient, line: number): Promise<void> => {
      for (let n = line; n < RECORDS; n += LINES_AT_ONCE) {
        const [name, text] = [{ key: `k${n}.demo` }, `value ${n} ${"x".repeat(Math.floor(random() * 300))}`];
        await insist(() => client.put(name, text, {}, never));
        const record = await insist(() => client.get(name, {}, never));
        if (record?.value !== text) wrong.push(`${n}: ${String(record?.value)}`);
      }
    };
    await Promise.all(Array.from({ length: LINES_AT_ONCE }, (_, line) => work(sender, line)));
    t.same(wrong, []);
    t.ok(alicesLine.cuts - cutsBefore >= 5, `${alicesLine.cuts - cutsBefore} cuts`);
  });
});
