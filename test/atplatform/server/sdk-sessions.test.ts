import { sign } from "node:crypto";
import t, { type Test } from "tap";
import { testKeys as keys, vectors } from "../../fixtures/vectors.js";
import { wirePattern } from "../../fixtures/wire-pattern.js";
import { WireWorld } from "../../fixtures/wire-world.js";
import type { WireClient } from "../../fixtures/wire-client.js";

// What real SDKs (Python, Java, C) and NoPorts' daemon send, line by line as recorded, played against our servers. The
// answers were written by a stand-in server: what changes from server to server (ids, addresses, times) is not compared.

interface Line {
  readonly c: string;
  readonly at: string;
  readonly dir: ">" | "<";
  readonly text: string;
  /** The published grammar rejects the command. */
  readonly serverGrammar?: false;
}

interface Session {
  readonly sdk: string;
  readonly lines: readonly Line[];
}

const { sessions } = vectors<{ readonly sessions: readonly Session[] }>("transcripts.json");

/** The atSigns of the recordings with their keys; the stand-in gave @carol another pair's public key. */
async function openWorld(dir: string): Promise<WireWorld> {
  const world = await WireWorld.open(dir, { settings: { statsNotificationMs: -1 } });
  const owners = [
    ["@alice", keys.alice.pkam.publicKey, keys.alice.encryption.publicKey],
    ["@bob", keys.bob.pkam.publicKey, keys.bob.encryption.publicKey],
    ["@carol", keys.bob.pkam.publicKey, keys.alice.apkamDevice2.publicKey],
  ] as const;
  for (const [atSign, pkam, encryption] of owners) {
    await world.add(atSign);
    const client = await world.cram(atSign);
    await client.data(`update:privatekey:at_pkam_publickey ${pkam}`);
    await client.data(`update:public:publickey${atSign} ${encryption}`);
    client.close();
  }
  return world;
}

class Player {
  readonly #world: WireWorld;
  readonly #t: Test;
  readonly #connections = new Map<string, WireClient>();
  readonly #challenges = new Map<string, string>();
  readonly #monitors = new Map<string, string>();
  /** The last thing sent that has no answer yet, by connection. */
  readonly #asked = new Map<string, Line>();

  constructor(t: Test, world: WireWorld) {
    this.#t = t;
    this.#world = world;
  }

  async play(line: Line): Promise<void> {
    const client = await this.#connection(line);
    if (line.dir === ">") {
      client.send(`${this.#signed(line)}\n`);
      this.#asked.set(line.c, line);
      if (line.text.startsWith("monitor")) this.#monitors.set(line.c, "");
    } else if (line.text.startsWith("notification:")) {
      await this.#expectNotification(client, line);
    } else {
      const asked = this.#asked.get(line.c);
      const reply = this.#monitors.has(line.c) ? await this.#nextLine(client, line.c) : await client.chunk();
      if (asked?.text.startsWith("from:"))
        this.#challenges.set(line.c, reply.slice("data:".length).split("\n")[0] ?? "");
      this.#compare(asked, line, reply);
    }
  }

  async #connection({ c, at }: Line): Promise<WireClient> {
    const known = this.#connections.get(c);
    if (known) return known;
    const { platform } = this.#world;
    const port = at === "directory" ? platform.directoryPort : this.#world.portOf(at);
    const client = await this.#world.connect(port);
    this.#t.equal(await client.chunk(), "@", `${c} is greeted`);
    this.#connections.set(c, client);
    return client;
  }

  /** The recorded signature is of another challenge. */
  #signed({ c, at, text }: Line): string {
    if (!text.startsWith("pkam:")) return text;
    const pem = at === "@alice" ? keys.alice.pkam.privateKey : keys.bob.pkam.privateKey;
    const key = { key: Buffer.from(pem, "base64"), format: "der", type: "pkcs8" } as const;
    return `pkam:${sign("sha256", Buffer.from(this.#challenges.get(c) ?? ""), key).toString("base64")}`;
  }

  #compare(asked: Line | undefined, { text }: Line, reply: string): void {
    const about = asked?.text.slice(0, 80) ?? "";
    const json = /^data:(?<json>\{[^\n]*\})\n/u;
    const [expected, given] = [json.exec(text)?.groups?.["json"], json.exec(reply)?.groups?.["json"]];
    if (expected !== undefined) this.#t.match(JSON.parse(given ?? "null"), withoutZeros(expected), about);
    // The grammar is stricter than the specification's, which takes words in any case.
    else if (asked?.serverGrammar === false) this.#t.match(reply, /^(?:error:AT0003-|data:\[)[^\n]*\n@/u, about);
    else this.#t.match(reply, wirePattern(this.#pattern(text)), about);
  }

  #pattern(text: string): string {
    return text
      .replace(/^data:_[0-9a-f-]{36}@(?<atSign>\w+):[0-9a-f-]{36}/u, "data:_<id>@$<atSign>:<id>")
      .replace(/^data:[0-9a-f-]{36}\n/u, "data:<id>\n")
      .replace(/^data:\d+\n/u, "data:<n>\n")
      .replace(/^localhost:\d+/u, "localhost:<n>");
  }

  async #expectNotification(client: WireClient, { c, text }: Line): Promise<void> {
    const expected = JSON.parse(text.slice("notification: ".length)) as Readonly<Record<string, unknown>>;
    const { from, to, key, value, operation } = expected;
    for (;;) {
      const line = await this.#nextLine(client, c);
      const given = JSON.parse(line.slice(line.indexOf("{"))) as Readonly<Record<string, unknown>>;
      // What the server sends by itself (auto-notify, statistics) stands between.
      if (given["key"] !== key || given["value"] !== value) continue;
      this.#t.match(given, { from, to, operation }, `notification of ${String(key)}`);
      return;
    }
  }

  /** Monitors get whole lines, several in a segment or one in several. */
  async #nextLine(client: WireClient, c: string): Promise<string> {
    let held = this.#monitors.get(c) ?? "";
    while (!held.includes("\n")) held += await client.chunk();
    const end = held.indexOf("\n") + 1;
    this.#monitors.set(c, held.slice(end));
    const line = held.slice(0, end);
    // Prompts are left out on monitors (spec 3.21.6).
    return line.startsWith("data:") ? `${line}@bob@` : line;
  }
}

/** The stand-in gives times to live of 0, a server leaves them out. */
function withoutZeros(json: string): unknown {
  return JSON.parse(json, (name, value: unknown) =>
    (name === "ttl" || name === "ttb") && value === 0 ? undefined : value,
  );
}

for (const { sdk, lines } of sessions) {
  t.test(`the session of ${sdk} goes as recorded`, async (t) => {
    await using world = await openWorld(t.testdir());
    const player = new Player(t, world);
    for (const line of lines) await player.play(line);
  });
}
