import t from "tap";
import { parseDate, parseRecordJson } from "../../../atplatform/client/record-json.js";
import { encryptAesKey, parsePublicKey } from "../../../atplatform/crypto/rsa.js";
import { newAesKey, parseIv, encryptText } from "../../../atplatform/crypto/aes-ctr.js";
import { parseAtSign } from "../../../atplatform/protocol/at-sign.js";
import { TestPlatform } from "../../fixtures/at-platform.js";
import { alice, bob, clientOf, welcoming } from "../../fixtures/at-server-script.js";
import { openScripted } from "../../fixtures/scripted-server.js";
import { testKeys } from "../../fixtures/vectors.js";

// The traps of client.md, section 11, that have no better place.

const never = new AbortController().signal;

/** What a client of `@bob` reads where an atServer answers so, and what it asked. */
const read = async (answers: Readonly<Record<string, string>>, name: Name): Promise<unknown> =>
  (await get(name, answers)).record;

interface Name {
  readonly key: string;
  readonly for?: "public";
  readonly by?: typeof alice;
}

async function get(
  name: Name,
  answers: Readonly<Record<string, string>>,
): Promise<{ readonly record: unknown; readonly asked: readonly string[] }> {
  const asked: string[] = [];
  await using server = await openScripted((peer) =>
    peer.answer(
      welcoming(bob, (line) => {
        asked.push(line);
        return answers[line];
      }),
    ),
  );
  await using client = await clientOf(server);
  return { record: await client.get(name, {}, never), asked };
}

const json = (data: string, metaData: object): string => JSON.stringify({ key: "public:n.demo@alice", data, metaData });

t.test("traps", async (t) => {
  t.test("11: encoding may be said in two ways", async (t) => {
    const data = Buffer.from("two\nlines").toString("base64");
    for (const encoding of ["base64", "EncodingType.base64"]) {
      const answers = { "plookup:all:n.demo@alice": json(data, { encoding }) };
      t.match(await read(answers, { key: "n.demo", for: "public", by: alice }), { value: "two\nlines" }, encoding);
    }
  });

  t.test("17: seconds and milliseconds are told apart by name", async (t) => {
    const { metadata } = parseRecordJson(json("x", { ttl: 1, ttb: 2, ttr: 3 }));
    t.same(metadata, { ttlMs: 1, ttbMs: 2, ttrSeconds: 3 });
  });

  t.test("18: dates have a blank where ISO 8601 has a T, or are the text null", async (t) => {
    t.same(parseDate("2024-10-24 10:00:00.123Z"), new Date(Date.UTC(2024, 9, 24, 10, 0, 0, 123)));
    t.same(parseDate("2024-10-24T10:00:00.123Z"), new Date(Date.UTC(2024, 9, 24, 10, 0, 0, 123)));
    for (const none of ["null", "", null, undefined, 7, "yesterday"]) t.equal(parseDate(none), undefined);
  });

  t.test("22 and 23: names go in lower case, with the namespace inside the name", async (t) => {
    const { record, asked } = await get({ key: "Phone.Demo" }, {});
    t.equal(record, undefined);
    t.same(asked, ["llookup:all:phone.demo@bob"]);
    const other = await get({ key: "Phone.Demo", by: alice }, {});
    t.same(other.asked, ["lookup:all:phone.demo@alice"]);
  });

  t.test("31: blanks at the ends of an encrypted value stay", async (t) => {
    const key = newAesKey();
    const shared = encryptAesKey(key, parsePublicKey(testKeys.bob.encryption.publicKey));
    const data = encryptText("  x \n", key, parseIv(null));
    const answers = {
      "lookup:all:n.demo@alice": json(data, { isEncrypted: true, sharedKeyEnc: shared }).replace("public:", "@bob:"),
    };
    t.match(await read(answers, { key: "n.demo", by: alice }), { value: "  x \n" });
  });

  t.test("44: showhidden is asked for in lower case", async (t) => {
    const asked: string[] = [];
    await using server = await openScripted((peer) =>
      peer.answer(
        welcoming(bob, (line) => {
          asked.push(line);
          return "[]";
        }),
      ),
    );
    await using client = await clientOf(server);
    t.same(await client.scan({ showHidden: true, regex: "demo" }, never), []);
    t.same(asked, ["scan:showhidden:true demo"]);
  });

  t.test("47: atSigns and names hold emoji", async (t) => {
    await using platform = await TestPlatform.open(t.testdir());
    const tool = parseAtSign("@🛠Tool.Box");
    await using client = await platform.client("@🛠toolbox");
    await using other = await platform.client("@bob");
    await client.put({ key: "🌡nder.demo", for: bob }, "warm 🌞", {}, never);
    const got = await other.get({ key: "🌡nder.demo", by: tool }, {}, never);
    t.match(got, { value: "warm 🌞", wasEncrypted: true });
    const source = other.subscribe({ since: "stored", regex: "🛠" }, never);
    await client.notify({ to: bob, key: "🌡.demo", value: "21 °C", ttlnMs: 60_000 }, never);
    for (;;) {
      const next = await source.next();
      if (next.done) throw new Error("it has ended");
      if (next.value.key !== "🌡.demo") continue; // the record above is notified, too
      t.equal(next.value.from, tool);
      t.equal((await next.value.decrypt(never)).text, "21 °C");
      break;
    }
    await source.return();
  });
});
