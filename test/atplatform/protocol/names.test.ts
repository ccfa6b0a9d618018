import fc from "fast-check";
import t from "tap";
import {
  keyName,
  keyTypeOf,
  makeAtKey,
  parseAtKey,
  partsOf,
  type AtKeyType,
} from "../../../atplatform/protocol/at-key.js";
import { parseAtSign } from "../../../atplatform/protocol/at-sign.js";
import { normaliseCommand, verbOf } from "../../../atplatform/protocol/command-line.js";

const anyText = fc.string({
  unit: fc.constantFrom(...Array.from("@:. \t\nabZ_-,é🦄ıİ\u0085\u2028\u2424\ud83d"), "cached:", "public:", "@bob"),
});

t.test("parseAtSign", async (t) => {
  t.test("gives the canonical form", async (t) => {
    t.equal(parseAtSign("alice"), "@alice");
    t.equal(parseAtSign("@Colin.Constable"), "@colinconstable");
    t.equal(parseAtSign("@Ärger_1-ø"), "@ärger_1-ø");
    t.equal(parseAtSign("@alice🛠"), "@alice🛠");
  });

  t.test("refuses with the words of the reference atServer", async (t) => {
    const one = "invalid @sign: must include one @ character and at least one character on the right";
    const cases: readonly (readonly [text: string, message: string])[] = [
      ["", one],
      ["@", one],
      ["@...", one],
      ["@@alice", "invalid @sign: Cannot Contain more than one @ character"],
      ["al@ice", "invalid @sign: Cannot Contain more than one @ character"],
      ...Array.from("!*'`();:&=+$,/?#[]{}").map(
        (char) => [`al${char}ce`, "invalid @sign: Cannot contain !*'`();:&=+$,/?#[]{} characters"] as const,
      ),
      ...Array.from(" \t\n\u0085\u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000").map(
        (char) => [`al${char}ce`, "invalid @sign: Cannot Contain whitespace characters"] as const,
      ),
      ...Array.from("\u0000\u001b\u007f\u2400\u241f\u2421\u2424\u2425").map(
        (char) => [`al${char}ce`, "invalid @sign: must not include control characters"] as const,
      ),
    ];
    for (const [text, message] of cases) {
      t.throws(() => parseAtSign(text), { code: "AT_SIGN_INVALID", message }, encodeURIComponent(text));
    }
  });

  t.test("leaves a canonical atSign as it is, and throws nothing but its own error", async () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const once = attempt(() => parseAtSign(text), "AT_SIGN_INVALID");
        return once === undefined || (parseAtSign(once) === once && /^@[^@.\s]+$/u.test(once));
      }),
    );
  });
});

t.test("the type of a key", async (t) => {
  const types: Readonly<Record<AtKeyType, readonly string[]>> = {
    reserved: [
      "privatekey:at_secret",
      "privatekey:at_pkam_publickey",
      "privatekey:commitLogCompactionStats",
      "configkey",
      "_latestNotificationId",
      "private:blocklist@alice",
      "public:publickey@alice",
      "public:signing_publickey@alice",
      "@alice:signing_privatekey@alice",
      "@bob:shared_key@alice",
      "@alice🛠:shared_key@bob🛠",
      "shared_key.bob@alice",
    ],
    public: ["public:phone@alice", "public:phone.wavi@alice", "public:__hidden.wavi@alice", "public:_h@alice"],
    private: ["private:phone@alice", "private:@bob:phone@alice"],
    self: ["phone@alice", "@alice:phone.wavi@alice", "_hidden.wavi@alice", "🦄.wavi@alice", `o'"*-.x@alice`],
    shared: ["@bob:phone.wavi@alice", "@bob:telemetry.shared_key.wavi@alice", "@bob🛠:a@alice🛠"],
    cachedPublic: ["cached:public:phone.wavi@bob", "cached:public:publickey@bob"],
    cachedShared: ["cached:@alice:phone.wavi@bob", "cached:@bob:shared_key@alice", "cached:@alice:own@alice"],
    local: ["local:lastreceivednotification.wavi@alice"],
    invalid: [
      "",
      "@alice",
      "phone",
      "public:@alice",
      "public:phone",
      "a,b.wavi@alice",
      "a b@alice",
      "@bob:@alice",
      "@bob:public:phone@alice",
      "wrong:phone@alice",
      "cached:phone@alice",
      "cached:local:phone@alice",
      "phone@",
      "phone@al.ice",
      `phone@${"a".repeat(56)}`,
      `@${"a".repeat(56)}:phone@alice`,
      "privatekey:unknown",
      "privatekey:at_secret@alice",
      "public:public:phone@alice",
    ],
  };
  for (const type of Object.keys(types) as AtKeyType[]) {
    t.test(type, async (t) => {
      for (const name of types[type]) t.equal(keyTypeOf(name), type, name);
    });
  }

  t.test("and its parts", async (t) => {
    t.match(partsOf("cached:@bob:phone.home.wavi@alice"), {
      cached: true,
      visibility: "shared",
      sharedWith: "@bob",
      entity: "phone.home.wavi",
      namespace: "wavi",
      owner: "@alice",
    });
    t.match(partsOf("public:phone@alice"), { visibility: "public", sharedWith: undefined, namespace: undefined });
    t.equal(partsOf("privatekey:at_secret").owner, undefined);
  });
});

t.test("parseAtKey", async (t) => {
  t.test("gives the name as stored", async (t) => {
    t.equal(parseAtKey(" @Bob:Phone. Wavi@Alice "), "@bob:phone.wavi@alice");
    t.equal(
      makeAtKey({ scope: parseAtSign("b.ob"), entity: "Phone.wavi", owner: parseAtSign("alice") }),
      "@bob:phone.wavi@alice",
    );
    t.equal(keyName({ cached: true, scope: "public", entity: "x", owner: parseAtSign("bob") }), "cached:public:x@bob");
  });

  t.test("refuses unknown types and long names", async (t) => {
    t.throws(() => parseAtKey("a,b@alice"), { code: "AT_KEY_INVALID", message: 'not an atKey: "a,b@alice"' });
    const longest = `${"k".repeat(242)}@alice`;
    t.equal(parseAtKey(longest), longest);
    t.throws(() => parseAtKey(`k${longest}`), { message: "key length 249 is greater than max allowed 248 chars" });
    const longestCached = `cached:public:${"k".repeat(235)}@alice`;
    t.equal(parseAtKey(longestCached), longestCached);
    t.throws(() => parseAtKey(`${longestCached}s`), {
      message: "key length 256 is greater than max allowed 255 chars",
    });
  });

  t.test("changes no name that it gave, and throws nothing but its own error", async () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const once = attempt(() => parseAtKey(text), "AT_KEY_INVALID");
        return once === undefined || parseAtKey(once) === once;
      }),
    );
  });

  t.test("takes apart what it put together", async () => {
    const atSign = fc.stringMatching(/^@[a-z0-9_-]{1,12}$/u).map(parseAtSign);
    const scope = fc.oneof(fc.constant(undefined), fc.constant("public" as const), atSign);
    const entity = fc.stringMatching(/^[a-z0-9_'"*-]{1,12}(\.[a-z0-9_]{1,8}){0,3}$/u);
    fc.assert(
      fc.property(fc.boolean(), scope, entity, atSign, (cached, scope, entity, owner) => {
        fc.pre(!cached || scope !== undefined);
        const parts = partsOf(makeAtKey({ cached, scope, entity, owner }));
        return (
          parts.entity === entity &&
          parts.owner === owner &&
          parts.cached === cached &&
          parts.sharedWith === (scope === "public" ? undefined : scope)
        );
      }),
    );
  });
});

t.test("a command line", async (t) => {
  t.test("is trimmed and its verb lower-cased, but not its arguments", async (t) => {
    const cases = {
      "  NOOP:0\r\n": "noop:0",
      "SCAN \\D": "scan \\D",
      "Monitor .WAVI": "monitor .WAVI",
      "Update:public:Phone@alice  Hello ": "update:public:Phone@alice  Hello",
      "lookup :a@b": "lookup:a@b",
      "scan :x": "scan :x",
      "scan .*:x": "scan .*:x",
      "": "",
      "\r\n": "",
      "🦄": "🦄",
    };
    for (const [line, normal] of Object.entries(cases)) t.equal(normaliseCommand(line), normal, line);
  });

  t.test("names its verb", async (t) => {
    const cases = {
      "from:@alice": "from",
      "update:metadata.wavi@alice x": "update",
      "update:meta@alice x": "update",
      "update:meta:x@alice": "update:meta",
      "update:json:{}": "update",
      "llookup:x": "llookup",
      scan: "scan",
      "scan@": "scan",
      pol: "pol",
      "pol:": undefined,
      info: "info",
      "info:brief": "info",
      "info:long": undefined,
      "notify:@bob:x": "notify",
      "notify:list": "notify:list",
      "notify:status:1": "notify:status",
      "notify:all:@a,@b:x": "notify:all",
      "sync:from:1:limit:2": "sync:from",
      "sync:5": undefined,
      frobnicate: undefined,
      "": undefined,
      constructor: undefined,
    };
    for (const [line, verb] of Object.entries(cases)) t.equal(verbOf(line), verb, line);
  });
});

function attempt<T>(work: () => T, code: string): T | undefined {
  try {
    return work();
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === code) return undefined;
    throw error;
  }
}
