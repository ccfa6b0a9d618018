import { connect, createServer, type AddressInfo } from "node:net";
import { once } from "node:events";
import t from "tap";
import { DataBudget } from "../../../agent/budget/data-budget.js";
import { Traffic } from "../../../core/traffic.js";

const DAY = 86_400_000;

class Counts {
  readonly values = new Map<string, number>();
  get = (name: string): number => this.values.get(name) ?? 0;
  add = (name: string, by = 1): void => void this.values.set(name, this.get(name) + by);
}

function counting(megabytes: number | undefined, startMs = Date.UTC(2026, 10, 1)) {
  const world = {
    traffic: { sentBytes: 0, receivedBytes: 0 },
    nowMs: startMs as number | undefined,
    counters: new Counts(),
  };
  const make = (): DataBudget => new DataBudget({ ...world, megabytes, now: () => world.nowMs });
  return { world, budget: make(), make };
}

t.test("a data budget", async (t) => {
  t.test("counts both ways by the month, over restarts", async (t) => {
    const { world, budget, make } = counting(undefined);
    world.traffic.sentBytes = 1000;
    world.traffic.receivedBytes = 300;
    t.match(budget.use, { month: "2026-11", sentBytes: 1000, receivedBytes: 300, budgetBytes: undefined, stretch: 1 });
    world.traffic.sentBytes = 1500;
    t.match(budget.use, { sentBytes: 1500 });
    world.traffic.sentBytes = 40; // another process
    world.traffic.receivedBytes = 0;
    const again = make();
    t.match(again.use, { sentBytes: 1540, receivedBytes: 300 });
    world.nowMs = Date.UTC(2026, 11, 1);
    world.traffic.sentBytes = 100;
    t.match(again.use, { month: "2026-12", sentBytes: 60, receivedBytes: 0 });
    t.equal(again.stretch, 1);
  });

  t.test(
    "stretches what is sent ahead of the plan, up to a bound, and no longer when the plan has caught up",
    async (t) => {
      const { world, budget } = counting(30);
      t.match(budget.use, { budgetBytes: 30_000_000, plannedBytes: 1_500_000, stretch: 1 }, "there is a head start");
      world.traffic.sentBytes = 1_500_000;
      t.equal(budget.stretch, 1);
      world.traffic.sentBytes = 1_800_000;
      const { stretch } = budget.use;
      t.ok(stretch > 2 && stretch < 16, String(stretch));
      t.equal(budget.stretch, stretch);
      world.traffic.receivedBytes = 10_000_000;
      t.equal(budget.use.stretch, 16);
      world.nowMs = Date.UTC(2026, 10, 15);
      t.equal(budget.use.stretch, 1);
      world.traffic.sentBytes = 29_000_000;
      t.equal(budget.use.stretch, 16);
      world.nowMs = Date.UTC(2026, 10, 15) + 17 * DAY;
      t.match(budget.use, { month: "2026-12", stretch: 1 }, "a new month");
    },
  );

  t.test("puts what was sent before the time was known on the account of the month that it is then", async (t) => {
    const { world, budget } = counting(10);
    world.nowMs = undefined;
    world.traffic.sentBytes = 500;
    t.match(budget.use, { month: "", stretch: 1 });
    world.nowMs = Date.UTC(2026, 10, 3);
    world.traffic.sentBytes = 600;
    t.match(budget.use, { month: "2026-11", sentBytes: 600 });
    t.equal(world.counters.get("wire.undated.sent"), 0);
  });
});

t.test("traffic is what sockets have sent and received, open and closed ones", async (t) => {
  const server = createServer((socket) => socket.end("hello")).listen(0, "127.0.0.1");
  await once(server, "listening");
  const traffic = new Traffic();
  const socket = connect((server.address() as AddressInfo).port, "127.0.0.1");
  traffic.count(socket);
  socket.resume().write("abc");
  await once(socket, "end");
  t.same([traffic.sentBytes, traffic.receivedBytes], [3, 5]);
  if (!socket.closed) await once(socket, "close");
  t.same([traffic.sentBytes, traffic.receivedBytes], [3, 5]);
  server.close();
});
