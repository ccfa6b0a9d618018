import fc from "fast-check";
import t from "tap";
import { QueryFramer } from "../../../atplatform/directory/query-framer.js";
import { heldBytes } from "../../fixtures/held-bytes.js";
import { WireWorld } from "../../fixtures/wire-world.js";

// The dialogues of section 9.1 are in test/transcripts/server/: here is what they cannot say.

t.test("the atDirectory on the wire", async (t) => {
  await using world = await WireWorld.open(t.testdir());
  const { platform } = world;
  platform.store.directory.set({ name: "alice", host: "h.example", port: 6464 });
  platform.store.directory.set({ name: "emoji🦄", host: "h.example", port: 6465 });
  const connect = async () => {
    const client = await world.connect(platform.directoryPort);
    t.equal(await client.chunk(), "@", "greeted");
    return client;
  };

  await t.test("thousands of look-ups on one connection cost no memory", async (t) => {
    const D = await connect();
    const ask = async (times: number): Promise<void> => {
      for (let n = 0; n < times; n += 1) {
        if ((await D.ask("alice")) !== "h.example:6464\r\n@") t.fail("answered otherwise");
      }
    };
    await ask(1_000);
    // What grows with the look-ups grows in every round; what the engine learns of the code does not.
    let least = Infinity;
    for (let round = 0; round < 3; round += 1) {
      const before = await heldBytes();
      await ask(4_000);
      least = Math.min(least, (await heldBytes()) - before);
    }
    t.ok(least < 25 * 4_000, `${least} bytes in four thousand look-ups`);
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
