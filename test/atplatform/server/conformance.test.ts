import t, { type Test } from "tap";
import type { WireClient } from "../../fixtures/wire-client.js";
import { wirePattern } from "../../fixtures/wire-pattern.js";
import { pkamSignature, spkiText, testKeys, WireWorld } from "../../fixtures/wire-world.js";

// The cases of the specification's section 9, by their numbers: bytes in, bytes out.

const settings = { statsNotificationMs: 400 };
const publicKey = spkiText(testKeys.publicKey);

/** Sends each line and compares the chunk that comes back with what the specification writes. */
async function play(
  t: Test,
  client: WireClient,
  steps: readonly (readonly [send: string, expected: string])[],
): Promise<void> {
  for (const [send, expected] of steps) {
    t.match(await client.ask(send), wirePattern(expected), `${send} < ${JSON.stringify(expected)}`);
  }
}

const isOpen = async (t: Test, client: WireClient): Promise<void> => {
  t.match(await client.ask("noop:0"), /^data:ok\n/u, "the connection goes on");
};

const isClosed = async (t: Test, client: WireClient): Promise<void> => {
  t.equal(await client.chunk(), "{close}", "the connection is closed");
};

t.test("9.2 framing", async (t) => {
  await using world = await WireWorld.open(t.testdir(), { settings });
  await world.add("@alice");
  await world.activate("@alice");
  const U = await world.unauthenticated("@alice");
  const A = await world.pkam("@alice");

  await t.test("C11 to C15: blank lines, unknown verbs, no-operations, split lines", async (t) => {
    U.send("\r\n");
    t.equal(await U.chunk(), "error:AT0003-Exception: invalid command\n@");
    await play(t, U, [
      ["frobnicate", "error:AT0003-Exception: invalid command\n@"],
      ["NOOP:0\r", "data:ok\n@"],
    ]);
    await play(t, A, [
      [
        "noop:5001",
        "error:AT0022-Illegal arguments : noop:<durationInMillis> where the duration maximum is 5000 milliseconds\n@alice@",
      ],
    ]);
    U.send("noo");
    t.ok(await U.silent(50));
    U.send("p:0\n");
    t.equal(await U.chunk(), "data:ok\n@");
  });

  await t.test("C16: two lines in one segment get two replies, in two writes and in order", async (t) => {
    U.send("noop:200\nnoop:0\n");
    t.equal(await U.chunk(), "data:ok\n@");
    t.equal(await U.chunk(), "data:ok\n@");
  });

  await t.test("C17, C19 to C22: info, the old sync, authentication before syntax", async (t) => {
    await play(t, U, [
      ["info:brief", 'data:{"version":"…","uptimeAsMillis":<n>}\n@'],
      ["info", 'data:{"version":"…","uptimeAsWords":"… seconds"}\n@'],
      ["sync:5", "error:AT0003-Exception: invalid command\n@"],
      ["llookup:a.b@alice", "error:AT0401-Exception: Command cannot be executed without auth\n@"],
      ["llookup:", "error:AT0401-…\n@"],
    ]);
    await play(t, A, [["llookup:", "error:AT0003-Invalid syntax : Invalid syntax. e.g llookup:location@bob\n@alice@"]]);
    await isOpen(t, A);
  });

  await t.test("C18: @exit closes without a word", async (t) => {
    const client = await world.unauthenticated("@alice");
    client.send("@exit\n");
    await isClosed(t, client);
  });

  await t.test("C23, C24: errors are JSON for clients after 3.0.37 only", async (t) => {
    const later = await world.unauthenticated("@alice");
    await play(t, later, [
      ['from:@alice:clientConfig:{"version":"3.0.38"}', "data:_<id>@alice:<id>\n@"],
      ["pol", 'error:{"errorCode":"AT0011","errorDescription":"…"}\n@'],
    ]);
    await isClosed(t, later);
    const earlier = await world.unauthenticated("@alice");
    await play(t, earlier, [
      ['from:@alice:clientConfig:{"version":"3.0.37"}', "data:_<id>@alice:<id>\n@"],
      ["llookup:a@alice", "error:AT0401-Exception: …\n@"],
      ['from:@alice:clientConfig:{"version":"not a version"}', "data:_<id>@alice:<id>\n@"],
      ["llookup:a@alice", "error:AT0401-Exception: …\n@"],
    ]);
  });

  await t.test("C25: a command that is too long is refused, and the connection closed", async (t) => {
    const client = await world.unauthenticated("@alice");
    client.send(Buffer.alloc(10_240_001, "a"));
    const expected =
      "error:AT0005-Exception: InboundBuffer overflow: server received request which exceeded the buffer size limit. Terminating the connection.\n@";
    t.equal(await client.chunk(), expected);
    t.equal(await client.chunk(), "{close}");
  });

  await t.test("2.6: a command that is not UTF-8 is answered", async (t) => {
    U.send(Buffer.from([0x73, 0xff, 0x0a]));
    t.equal(await U.chunk(), "error:AT0003-Exception: invalid command\n@");
  });

  await t.test("2.3: however long a reply is, its prompt does not come alone", async (t) => {
    for (const extra of [0, 1, 5, 6, 7, 8, 9, 100]) {
      const value = "v".repeat(16_384 - "data:\n@alice@".length + extra);
      t.match(await A.data(`update:long.wavi@alice ${value}`), /^\d+$/u);
      A.send("llookup:long.wavi@alice\n");
      const chunks: string[] = [];
      while (!chunks.join("").endsWith("\n@alice@")) chunks.push(await A.chunk());
      t.equal(chunks.join(""), `data:${value}\n@alice@`);
      t.ok((chunks.at(-1)?.length ?? 0) > "\n@alice@".length, "the last record holds more than the prompt");
    }
  });
});

t.test("9.3 authentication", async (t) => {
  await using world = await WireWorld.open(t.testdir(), { settings });
  const { cramSecret } = await world.add("@alice");

  await t.test("C26 to C31: CRAM, then PKAM with the key that was stored", async (t) => {
    const U = await world.unauthenticated("@alice");
    await play(t, U, [
      ["from:@alice", "data:_<id>@alice:<id>\n@"],
      ["cram:deadbeef", "error:AT0401-Exception: Authentication Failed\n@"],
    ]);
    await isOpen(t, U);
    t.equal(await U.cram("@alice", cramSecret), "data:success\n@alice@");
    const fresh = await world.unauthenticated("@alice");
    await play(t, fresh, [["cram:00", "error:AT0015-Exception: private:_<id>@alice does not exist in keystore\n@"]]);
    await play(t, U, [[`update:privatekey:at_pkam_publickey ${publicKey}`, "data:-1\n@alice@"]]);
    const challenge = await fresh.data("from:@alice");
    t.equal(await fresh.ask(`pkam:${pkamSignature(challenge)}`), "data:success\n@alice@");
  });

  await t.test("a challenge is good for one login, and not consumed by a failed one", async (t) => {
    const client = await world.unauthenticated("@alice");
    const challenge = await client.data("from:@alice");
    t.match(await client.ask("pkam:AAAA"), /^error:AT0401-/u);
    t.equal(await client.ask(`pkam:${pkamSignature(challenge)}`), "data:success\n@alice@");
    t.match(await client.ask(`pkam:${pkamSignature(challenge)}`), /^error:AT0015-/u);
  });

  await t.test("C32 to C34: wrong signatures, other digests, unknown enrolments", async (t) => {
    const U = await world.unauthenticated("@alice");
    await U.data("from:@alice");
    await play(t, U, [["pkam:AAAA", "error:AT0401-Exception: pkam authentication failed\n@"]]);
    await isOpen(t, U);
    const again = await U.data("from:@alice");
    t.equal(await U.ask(`pkam:${pkamSignature(again)}`), "data:success\n@alice@");
    const V = await world.unauthenticated("@alice");
    const challenge = await V.data("from:@alice");
    const signature = pkamSignature(challenge, "sha512");
    t.equal(await V.ask(`pkam:signingAlgo:rsa2048:hashingAlgo:sha512:${signature}`), "data:success\n@alice@");
    const W = await world.unauthenticated("@alice");
    await play(t, W, [
      ["from:@alice", "data:_<id>@alice:<id>\n@"],
      ["pkam:enrollmentId:nope:AAAA", "error:AT0028:enrollment_id: nope is expired or invalid\n@"],
    ]);
    await isOpen(t, W);
  });

  await t.test("C35: a CRAM secret that was deleted is gone for good", async (t) => {
    const A = await world.pkam("@alice");
    await play(t, A, [["delete:privatekey:at_secret", "data:-1\n@alice@"]]);
    const U = await world.unauthenticated("@alice");
    const reply = await U.cram("@alice", cramSecret);
    t.equal(reply, "error:AT0015-Exception: privatekey:at_secret does not exist in keystore\n@");
  });

  await t.test("C36, C37: malformed and blocked atSigns", async (t) => {
    const U = await world.unauthenticated("@alice");
    await play(t, U, [["from:al!ce", "error:AT0011-Exception: invalid @sign: Cannot contain …\n@"]]);
    await isClosed(t, U);
    const A = await world.pkam("@alice");
    await play(t, A, [
      ["config:block:add:@bob", "data:success\n@alice@"],
      ["config:block:show", 'data:["@bob"]\n@alice@'],
    ]);
    const V = await world.unauthenticated("@alice");
    await play(t, V, [["from:@bob", "error:AT0013-Exception: Unable to connect\n@"]]);
    await isClosed(t, V);
    await play(t, A, [
      ["config:block:remove:@bob", "data:success\n@alice@"],
      ["config:block:show", "data:null\n@alice@"],
    ]);
  });

  await t.test("C38: another atSign must show the certificate of its atServer", async (t) => {
    await world.add("@bob");
    const U = await world.unauthenticated("@alice");
    await play(t, U, [
      ["from:@bob", "error:AT0401-Exception: Certificate Verification Failed\n@"],
      ["from:@nosuch", "error:AT0007-Exception: Unable to find secondary address for atSign:nosuch\n@"],
    ]);
    await isOpen(t, U);
  });
});

t.test("9.4 keys and metadata", async (t) => {
  await using world = await WireWorld.open(t.testdir(), { settings });
  await world.add("@alice");
  await world.activate("@alice");
  const A = await world.pkam("@alice");
  const U = await world.unauthenticated("@alice");

  await t.test("C39 to C47: writing, and what is refused", async (t) => {
    await play(t, A, [
      ["update:phone.wavi@alice +1 2", "data:<n>\n@alice@"],
      ["llookup:phone.wavi@alice", "data:+1 2\n@alice@"],
      ["update:k.wavi@alice  x", "data:<n>\n@alice@"],
      ["llookup:k.wavi@alice", "data: x\n@alice@"],
      ["update:k.wavi@alice", "error:AT0003-Invalid syntax : …\n@alice@"],
      [
        "update:k.wavi@bob v",
        "error:AT0016-Invalid key : Invalid update command - sharedBy atsign @bob should be same as current atsign @alice\n@alice@",
      ],
      [
        "update:a,b.wavi@alice v",
        "error:AT0016-Invalid key : You may not update keys of type KeyType.invalidKey\n@alice@",
      ],
      ["update:public:@alice:k@alice v", "error:AT0003-…\n@alice@"],
      [
        "update:ttl:-1:k.wavi@alice v",
        "error:AT0003-Invalid syntax : Valid value for TTL should be greater than or equal to 0\n@alice@",
      ],
      [
        "update:ttr:-2:k.wavi@alice v",
        "error:AT0003-Invalid syntax : Valid values for TTR are -1 and greater than or equal to 1\n@alice@",
      ],
      [
        `update:${"k".repeat(249 - ".wavi@alice".length)}.wavi@alice v`,
        "error:AT0016-Invalid key : key length 249 is greater than max allowed 248 chars\n@alice@",
      ],
    ]);
  });

  await t.test("C48, C49: a record expires after its ttl and is born after its ttb", async (t) => {
    await play(t, A, [
      ["update:ttl:300:t.wavi@alice v", "data:<n>\n@alice@"],
      ["llookup:t.wavi@alice", "data:v\n@alice@"],
      ["update:ttb:300:u.wavi@alice v", "data:<n>\n@alice@"],
      ["llookup:u.wavi@alice", "data:null\n@alice@"],
      ["noop:400", "data:ok\n@alice@"],
      ["llookup:t.wavi@alice", "data:null\n@alice@"],
      ["llookup:u.wavi@alice", "data:v\n@alice@"],
    ]);
  });

  await t.test("C50 to C52: metadata, and what an update keeps of it", async (t) => {
    const meta =
      '"createdBy":"@alice","updatedBy":"@alice","createdAt":"<date>","updatedAt":"<date>","status":"active"';
    await play(t, A, [
      ["llookup:meta:phone.wavi@alice", `data:{${meta},"version":0,"isBinary":false,"isEncrypted":false}\n@alice@`],
      ["update:isEncrypted:true:ivNonce:N:phone.wavi@alice y", "data:<n>\n@alice@"],
      [
        "llookup:meta:phone.wavi@alice",
        `data:{${meta},"version":1,"isBinary":false,"isEncrypted":true,"ivNonce":"N"}\n@alice@`,
      ],
      ["update:phone.wavi@alice z", "data:<n>\n@alice@"],
      [
        "llookup:meta:phone.wavi@alice",
        `data:{${meta},"version":2,"isBinary":false,"isEncrypted":false,"ivNonce":"N"}\n@alice@`,
      ],
      ["update:ivNonce:null:phone.wavi@alice z", "data:<n>\n@alice@"],
      ["llookup:meta:phone.wavi@alice", `data:{${meta},"version":3,"isBinary":false,"isEncrypted":false}\n@alice@`],
      ["llookup:all:phone.wavi@alice", `data:{"key":"phone.wavi@alice","data":"z","metaData":{${meta},…}}\n@alice@`],
      ["update:meta:phone.wavi@alice:ttl:0:isEncrypted:true", "data:<n>\n@alice@"],
      [
        "llookup:meta:phone.wavi@alice",
        `data:{${meta},"version":4,"ttl":0,"isBinary":false,"isEncrypted":true}\n@alice@`,
      ],
      ["llookup:phone.wavi@alice", "data:z\n@alice@"],
    ]);
  });

  await t.test("C53 to C63: what is missing, protected, public, hidden or oddly spelt", async (t) => {
    const before = Number(await A.data("update:count.wavi@alice v"));
    await play(t, A, [
      [
        "llookup:missing.wavi@alice",
        "error:AT0015-key not found : missing.wavi@alice does not exist in keystore\n@alice@",
      ],
      ["delete:missing.wavi@alice", `data:${before + 1}\n@alice@`],
      [
        "delete:public:publickey@alice",
        "error:AT0009-UnAuthorized client in request : Cannot delete protected key: 'publickey@alice'\n@alice@",
      ],
      ["update:public:loc.wavi@alice here", "data:<n>\n@alice@"],
    ]);
    await play(t, U, [
      ["lookup:loc.wavi@alice", "data:here\n@"],
      ["lookup:none.wavi@alice", "error:AT0015-Exception: public:none.wavi@alice does not exist in keystore\n@"],
    ]);
    await play(t, A, [
      [
        "lookup:loc.wavi@alice",
        "error:AT0015-key not found : @alice:loc.wavi@alice does not exist in keystore\n@alice@",
      ],
      ["update:public:__h.wavi@alice v", "data:<n>\n@alice@"],
      ["update:public:_h.wavi@alice v", "data:-1\n@alice@"],
      ["update:Caps.Wavi@alice v", "data:<n>\n@alice@"],
      ["llookup:caps.wavi@alice", "data:v\n@alice@"],
      ["update:🦄.wavi@alice v", "data:<n>\n@alice@"],
      ["llookup:🦄.wavi@alice", "data:v\n@alice@"],
      ["scan@", "error:AT0003-Invalid syntax : Invalid syntax. scan\n@alice@"],
    ]);
    const publicNames = JSON.parse(await U.data("scan")) as string[];
    t.same(publicNames, ["loc.wavi@alice", "publickey@alice", "signing_publickey@alice"]);
    const own = JSON.parse(await A.data("scan")) as string[];
    t.notOk(own.some((name) => name.startsWith("private") || name.startsWith("public:_")));
    t.ok(own.includes("public:loc.wavi@alice"));
    t.ok((JSON.parse(await A.data("scan:showhidden:true")) as string[]).includes("public:__h.wavi@alice"));
    t.same(JSON.parse(await A.data("scan ^caps\\.")), ["caps.wavi@alice"]);
    t.match(await A.ask("scan (("), /^error:AT0003-/u, "a bad expression is an error, and no reason to close");
    await isOpen(t, A);
  });

  await t.test("3.8: a value may refer to another record, a few steps deep", async (t) => {
    await A.data("update:public:target.wavi@alice there");
    await A.data("update:public:one.wavi@alice atsign://target.wavi@alice");
    await A.data("update:public:loop.wavi@alice atsign://loop.wavi@alice");
    t.equal(await U.data("lookup:one.wavi@alice"), "there");
    t.equal(await U.data("lookup:loop.wavi@alice"), "null");
  });
});

t.test("9.5 sync, stats, batch, monitor", async (t) => {
  await using world = await WireWorld.open(t.testdir(), { settings });
  await world.add("@alice");
  await world.activate("@alice");
  const A = await world.pkam("@alice");

  await t.test("C64 to C68: the commit log", async (t) => {
    const n = Number(await A.data("update:phone.wavi@alice v"));
    await play(t, A, [
      ["stats:3", `data: [{"id":"3","name":"lastCommitID","value":"${n}"}]\n@alice@`],
      ["stats:-1", "error:AT0003-…\n@alice@"],
      [
        `sync:from:${n - 1}:limit:10`,
        `data:[{"atKey":"phone.wavi@alice","value":"v","metadata":{…,"version":"0",…},"commitId":${n},"operation":"*"}]\n@alice@`,
      ],
      [`sync:from:${n}:limit:10`, "data:[]\n@alice@"],
      ["delete:phone.wavi@alice", `data:${n + 1}\n@alice@`],
      [
        `sync:from:${n}:limit:10`,
        `data:[{"atKey":"phone.wavi@alice","value":null,"metadata":null,"commitId":${n + 1},"operation":"-"}]\n@alice@`,
      ],
    ]);
  });

  await t.test("sync pages hold 25 entries, and a filter does not make them empty", async (t) => {
    for (let i = 0; i < 30; i += 1) await A.data(`update:bulk${i}.buzz@alice v`);
    await A.data("update:last.wavi@alice v");
    const pages = async (regex: string): Promise<number[]> => {
      const sizes: number[] = [];
      let from = -1;
      for (;;) {
        const page = JSON.parse(await A.data(`sync:from:${from}:limit:100${regex}`)) as { commitId: number }[];
        if (page.length === 0) return sizes;
        sizes.push(page.length);
        from = page.at(-1)?.commitId ?? from;
      }
    };
    t.equal((await pages(""))[0], 25);
    t.same(await pages(":\\.wavi"), [3 + 1], "publickey, signing_publickey, the deletion, the last");
  });

  await t.test("C69: a batch gives a result a command", async (t) => {
    await play(t, A, [
      [
        'batch:[{"id":1,"command":"update:b1.wavi@alice v"},{"id":2,"command":"llookup:"},{"id":3,"command":"frob"},{"id":4,"command":"monitor"}]',
        'data:[{"id":1,"response":{"data":"<n>"}},{"id":2,"response":{"error_code":"AT0003","error_message":"Invalid syntax"}},{"id":3,"response":{"error_code":"AT0003","error_message":"Invalid syntax"}},{"id":4,"response":{"error_code":"AT0003","error_message":"Invalid syntax"}}]\n@alice@',
      ],
    ]);
  });

  const stats = (n: string): RegExp =>
    wirePattern(
      `notification: {"id":"-1","from":"@alice","to":"@alice","key":"statsNotification.@alice","value":"${n}","operation":"update","epochMillis":<n>,"messageType":"MessageType.key","isEncrypted":false,"metadata":null}\n`,
    );

  await t.test("C70, C71: a monitor is told of the last commit, by the clock and at once", async (t) => {
    const M = await world.pkam("@alice");
    M.send("monitor\n");
    t.ok(await M.silent(50), "no reply");
    t.match(await M.chunk(), stats("<n>"));
    const n = await A.data("update:m.wavi@alice v");
    for (;;) {
      const line = await M.chunk(1_000);
      t.match(line, stats("<n>"));
      if (line.includes(`"value":"${n}"`)) break;
    }
    M.send("noop:0\n");
    const texts = [await M.chunk(), await M.chunk()];
    t.ok(texts.includes("data:ok\n"), "no prompt on a monitor connection");
    M.close();
  });

  await t.test("C72: a notification to oneself is shown to one's monitors", async (t) => {
    const M = await world.pkam("@alice");
    M.send("monitor self\n");
    t.ok(await M.silent(20));
    const id = await A.data("notify:@alice:self.wavi@alice:hi");
    const expected = wirePattern(
      `notification: {"id":"${id}","from":"@alice","to":"@alice","key":"@alice:self.wavi@alice","value":"hi","operation":"update","epochMillis":<n>,"messageType":"MessageType.key","isEncrypted":true,"metadata":{…}}\n`,
    );
    let line = await M.chunk();
    while (line.includes("statsNotification")) line = await M.chunk();
    t.match(line, expected);
    M.close();
  });

  await t.test("C73 to C78: notifications that are unknown or refused", async (t) => {
    const U = await world.unauthenticated("@alice");
    await play(t, A, [
      ["notify:list:nomatch", "data:null\n@alice@"],
      ["notify:status:nope", "data:null\n@alice@"],
      ["notify:remove:nope", "data:success\n@alice@"],
      ["notify:fetch:nope", 'data:{"id":"nope","notificationStatus":"NotificationStatus.expired"}\n@alice@'],
      [
        "notify:strategy:latest:@bob:k.wavi@alice:v",
        "error:AT0003-Invalid syntax : For Strategy latest, notifier cannot be null\n@alice@",
      ],
      [
        "notify:@bob:k.wavi@carol:v",
        "error:AT0009-UnAuthorized client in request : @carol is not authorized to send notification as @alice\n@alice@",
      ],
      ["notify:ttr:-1:update:@bob:k.wavi@alice:v", "error:AT0003-…\n@alice@"],
      [
        "notify:list:2021-01-02:2021-01-01",
        "error:AT0022-Illegal arguments : ToDate cannot be less than FromDate\n@alice@",
      ],
      ["notify:list:2021-1-2", "error:AT0022-Illegal arguments : Invalid date format\n@alice@"],
    ]);
    await play(t, U, [
      [
        "notify:@bob:k.wavi@alice:v",
        "error:AT0401-Exception: Notify command cannot be executed without authentication\n@",
      ],
      ["notify:status:nope", "error:AT0401-…\n@"],
      ["notify:all:@bob:k.wavi@alice:v", "error:AT0401-…\n@"],
    ]);
  });

  await t.test("C79: a replay begins strictly after the time that is given, and comes once", async (t) => {
    const first = await A.data("notify:@alice:first.replay@alice:1");
    const second = await A.data("notify:@alice:second.replay@alice:2");
    const list = JSON.parse(await A.data("notify:list:\\.replay")) as { id: string; epochMillis: number }[];
    t.same(
      list.map(({ id }) => id),
      [first, second],
    );
    const M = await world.pkam("@alice");
    M.send(`monitor:strict:selfNotifications:${list[0]?.epochMillis} \\.replay\n`);
    const third = await A.data("notify:@alice:third.replay@alice:3");
    const seen = [await M.chunk(), await M.chunk()].map((line) => (JSON.parse(line.slice(14)) as { id: string }).id);
    t.same(seen, [second, third]);
    t.ok(await M.silent(100));
  });

  await t.test("a notification can be fetched, every value a text, and removed", async (t) => {
    const id = await A.data("notify:id:fetch-me:@alice:f.wavi@alice:v");
    const fetched = JSON.parse(await A.data(`notify:fetch:${id}`)) as Record<string, unknown>;
    t.ok(Object.values(fetched).every((value) => typeof value === "string"));
    t.match(fetched, {
      id: "fetch-me",
      type: "NotificationType.received",
      notificationStatus: "NotificationStatus.delivered",
    });
    t.equal(await A.data(`notify:status:${id}`), "delivered");
    t.equal(await A.data(`notify:remove:${id}`), "success");
    t.equal(await A.data(`notify:status:${id}`), "null");
  });

  await t.test("stats answers every number, and config is closed to `set` outside tests", async (t) => {
    const all = JSON.parse(await A.data("stats")) as { id: string }[];
    t.same(
      all.map(({ id }) => Number(id)),
      [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    );
    await play(t, A, [
      ["config:set:autoNotify=false", "data:testing mode disabled by default\n@alice@"],
      ["stream:init@bob x y 3", "error:AT0003-…\n@alice@"],
    ]);
  });
});
