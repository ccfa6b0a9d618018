import fc from "fast-check";
import t from "tap";
import { QueryFramer } from "../../../atplatform/directory/query-framer.js";
import { systemClock, type Clock } from "../../../core/clock.js";
import { WireWorld } from "../../fixtures/wire-world.js";

/** Sleeps a hundredth as long, and keeps account of what was asked for. */
function hurriedClock(): Clock & { readonly sleptMs: number[] } {
  const sleptMs: number[] = [];
  return {
    ...systemClock,
    sleptMs,
    sleep: (ms, signal) => {
      if (ms === 3_000) sleptMs.push(ms);
      return systemClock.sleep(ms === 3_000 ? 30 : ms, signal);
    },
  };
}

t.test("9.1 the atDirectory on the wire", async (t) => {
  const clock = hurriedClock();
  await using world = await WireWorld.open(t.testdir(), { clock });
  const { platform } = world;
  platform.store.directory.set({ name: "alice", host: "h.example", port: 6464 });
  platform.store.directory.set({ name: "emoji🦄", host: "h.example", port: 6465 });
  const connect = async () => {
    const client = await world.connect(platform.directoryPort);
    t.equal(await client.chunk(), "@", "C01: greeted with one byte, alone");
    return client;
  };
  const found = "h.example:6464\r\n@";

  await t.test("C02 to C05: queries in every form, any number on one connection", async (t) => {
    const D = await connect();
    for (const query of ["alice", "ALICE\r", "@alice", "al.ice", " alice "]) t.equal(await D.ask(query), found, query);
    t.equal(await D.ask("Emoji🦄"), "h.example:6465\r\n@");
    D.send("ali");
    t.ok(await D.silent(30));
    D.send("ce\n");
    t.equal(await D.chunk(), found);
    D.send("alice\nalice\n");
    t.equal(await D.until("@"), found);
    t.equal(await D.chunk(), found);
  });

  await t.test("C06, C07: a blank line is answered; misses are slowed down, then end the connection", async (t) => {
    const D = await connect();
    t.equal(await D.ask("\r"), "null\r\n@");
    t.equal(await D.ask("nobody"), "null\r\n@");
    t.same(clock.sleptMs, []);
    t.equal(await D.ask("nobody2"), "null\r\n@");
    t.same(clock.sleptMs, [3_000]);
    t.equal(await D.ask("alice"), found, "a hit is not delayed");
    D.send("nobody3\n");
    t.equal(await D.chunk(), "{close}");
    t.same(clock.sleptMs, [3_000, 3_000]);
  });

  await t.test("C08: @exit closes, with or without a newline", async (t) => {
    for (const exit of ["@exit", "@exit\r\n", "@EXIT\n"]) {
      const D = await connect();
      D.send(exit);
      t.equal(await D.chunk(), "{close}");
    }
  });

  await t.test("D13, D14: what is no query ends the connection without a word", async (t) => {
    for (const bad of [Buffer.alloc(256, "a"), Buffer.from([0x61, 0xff, 0x0a])]) {
      const D = await connect();
      D.send(bad);
      t.equal(await D.chunk(), "{close}");
    }
  });

  await t.test("a thousand look-ups on one connection, sent at once, are answered in order", async (t) => {
    const D = await connect();
    D.send("alice\nemoji🦄\n".repeat(500));
    let text = "";
    while (text.length < 34 * 500) text += await D.chunk();
    t.equal(text, "h.example:6464\r\n@h.example:6465\r\n@".repeat(500));
  });

  await t.test("an entry that another process writes is there at once", async (t) => {
    const D = await connect();
    const { PlatformStore } = await import("../../../atplatform/server/platform-store.js");
    const other = new PlatformStore(platform.store.stateDir);
    other.directory.set({ name: "late", host: "late.example", port: 1 });
    other.close();
    t.equal(await D.ask("late"), "late.example:1\r\n@");
  });
});

t.test("QueryFramer", async (t) => {
  t.test("gives the same queries however the bytes were cut", async () => {
    const bytes = Buffer.from("alice\r\n\n@bob\nemoji🦄🦄\n@exit\n");
    const whole = new QueryFramer().push(bytes);
    fc.assert(
      fc.property(fc.array(fc.nat(bytes.length), { maxLength: 8 }), (cuts) => {
        const at = [0, ...cuts.sort((a, b) => a - b), bytes.length];
        const framer = new QueryFramer();
        const names = at.slice(1).flatMap((end, index) => framer.push(bytes.subarray(at[index], end)));
        // A cut right after `@exit` lets it count at once, and its newline is then a blank line.
        return JSON.stringify(names.slice(0, whole.length)) === JSON.stringify(whole);
      }),
    );
  });

  t.test("holds no more than a query, and throws typed errors only", async () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 400 })), (chunks) => {
        const framer = new QueryFramer();
        for (const chunk of chunks) {
          try {
            framer.push(chunk);
          } catch (error) {
            return ["SYNTAX_INVALID", "LIMIT_EXCEEDED"].includes((error as { code: string }).code);
          }
        }
        return true;
      }),
    );
  });
});
