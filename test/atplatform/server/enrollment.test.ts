import t, { type Test } from "tap";
import type { WireClient } from "../../fixtures/wire-client.js";
import { wirePattern } from "../../fixtures/wire-pattern.js";
import { pkamSignature, spkiText, testKeys, WireWorld } from "../../fixtures/wire-world.js";

// The cases of the specification's section 9.6, and the holes of the reference that concern enrolments (10.5).

const settings = { statsNotificationMs: -1, enrollRequestsMax: 100 };
const publicKey = spkiText(testKeys.publicKey);

async function play(t: Test, client: WireClient, steps: readonly (readonly [string, string])[]): Promise<void> {
  for (const [send, expected] of steps) {
    t.match(await client.ask(send), wirePattern(expected), `${send} < ${JSON.stringify(expected)}`);
  }
}

const request = (otp: string, changes: Readonly<Record<string, unknown>> = {}): string =>
  `enroll:request:${JSON.stringify({
    ...{ appName: "wavi", deviceName: "pixel", namespaces: { wavi: "rw" }, otp, apkamPublicKey: publicKey },
    ...{ encryptedAPKAMSymmetricKey: "s", ...changes },
  })}`;

const approval = (id: string): string =>
  `enroll:approve:${JSON.stringify({
    enrollmentId: id,
    encryptedDefaultEncryptionPrivateKey: "a",
    encryptedDefaultSelfEncryptionKey: "b",
  })}`;

/** Asks with a fresh passcode and approves. */
async function enrolled(world: WireWorld, changes: Readonly<Record<string, unknown>>): Promise<string> {
  const A = await world.pkam("@alice");
  const U = await world.unauthenticated("@alice");
  const reply = JSON.parse(await U.data(request(await A.data("otp:get"), changes))) as { enrollmentId: string };
  await A.data(approval(reply.enrollmentId));
  A.close();
  U.close();
  return reply.enrollmentId;
}

t.test("9.6 enrolment", async (t) => {
  await using world = await WireWorld.open(t.testdir(), { settings });
  await world.add("@alice");

  await t.test("C80: the first app enrols itself on the CRAM connection, and logs in both ways", async (t) => {
    const A = await world.cram("@alice");
    const first = {
      appName: "firstApp",
      deviceName: "firstDevice",
      apkamPublicKey: publicKey,
      encryptedDefaultEncryptionPrivateKey: "a",
      encryptedDefaultSelfEncryptionKey: "b",
    };
    const reply = await A.ask(`enroll:request:${JSON.stringify(first)}`);
    t.match(reply, wirePattern('data:{"enrollmentId":"<id>","status":"approved"}\n@alice@'));
    await play(t, A, [[`update:public:publickey@alice ${publicKey}`, "data:<n>\n@alice@"]]);
    await play(t, A, [["delete:privatekey:at_secret", "data:-1\n@alice@"]]);
    const { enrollmentId } = JSON.parse(reply.slice(5, reply.indexOf("\n"))) as { enrollmentId: string };
    (await world.pkam("@alice", enrollmentId)).close();
    (await world.pkam("@alice")).close();
  });

  const A = await world.pkam("@alice");
  const U = await world.unauthenticated("@alice");
  let id = "";
  let otp = "";

  await t.test("C81 to C86: a request needs a good passcode, and then waits", async (t) => {
    await play(t, U, [
      ["enroll:list", "error:AT0401-Exception: Cannot list enrollment without authentication\n@"],
      ["enroll:fetch", "error:AT0022-Exception: Enroll parameters not provided\n@"],
      [request("BADBAD", { appName: "" }), "error:AT0011-Exception: appName is mandatory for enroll:request\n@"],
    ]);
    const startMs = performance.now();
    await play(t, U, [[request("BADBAD"), "error:AT0011-Exception: invalid otp. Cannot process enroll request\n@"]]);
    t.ok(performance.now() - startMs > 900, "a wrong passcode costs a second");
    otp = await A.data("otp:get");
    t.match(otp, /^[1-9A-NP-Z]{6,}$/u);
    t.match(otp, /\d/u);
    const M = await world.pkam("@alice");
    M.send("monitor:selfNotifications .*\\.new\\.enrollments\\.__manage\n");
    t.ok(await M.silent(30));
    const reply = await U.ask(request(otp.toLowerCase()));
    t.match(reply, wirePattern('data:{"enrollmentId":"<id>","status":"pending"}\n@'));
    id = (JSON.parse(reply.slice(5, reply.indexOf("\n"))) as { enrollmentId: string }).enrollmentId;
    const notification = JSON.parse((await M.chunk()).slice("notification: ".length)) as Record<string, string>;
    t.equal(notification["key"], `${id}.new.enrollments.__manage@alice`);
    t.same(JSON.parse(notification["value"] ?? ""), {
      encryptedApkamSymmetricKey: "s",
      encryptedAPKAMSymmetricKey: "s",
      appName: "wavi",
      deviceName: "pixel",
      namespace: { wavi: "rw" },
    });
    M.close();
    t.equal(await U.ask(request(otp)), reply, "the same request again, as after a lost answer, gets the same id");
    await play(t, U, [
      [request(otp, { deviceName: "other" }), "error:AT0011-Exception: invalid otp. Cannot process enroll request\n@"],
    ]);
    const challenge = await U.data("from:@alice");
    await play(t, U, [
      [`pkam:enrollmentId:${id}:${pkamSignature(challenge)}`, `error:AT0026:enrollment_id: ${id} is pending\n@`],
    ]);
  });

  await t.test("C87 to C89: approval, and the keys that the device finds", async (t) => {
    await play(t, A, [
      [
        `enroll:approve:{"enrollmentId":"${id}"}`,
        "error:AT0011-Internal server exception : encryptedDefaultEncryptionPrivateKey is mandatory for enroll:approve\n@alice@",
      ],
      [approval(id), `data:{"status":"approved","enrollmentId":"${id}"}\n@alice@`],
    ]);
    const E = await world.pkam("@alice", id);
    await play(t, E, [
      [`keys:get:keyName:${id}.default_enc_private_key.__manage@alice`, 'data:{"value":"a"}\n@alice@'],
      [`keys:get:keyName:${id}.default_self_enc_key.__manage@alice`, 'data:{"value":"b"}\n@alice@'],
      ["keys:get:self", `data:["${id}.default_self_enc_key.__manage@alice"]\n@alice@`],
    ]);
    E.close();
  });

  await t.test("C90 to C92: an enrolment stays within its namespaces", async (t) => {
    await A.data("update:b.buzz@alice v");
    await A.data("update:nodot@alice v");
    const E = await world.pkam("@alice", id);
    const refused = (what: string): string =>
      `error:AT0009-UnAuthorized client in request : Connection with enrollment ID ${id} is not authorized to ${what}\n@alice@`;
    await play(t, E, [
      ["update:a.wavi@alice v", "data:<n>\n@alice@"],
      ["update:a.buzz@alice v", refused("update key: a.buzz@alice")],
      ["delete:b.buzz@alice", refused("delete key: b.buzz@alice")],
      ["llookup:b.buzz@alice", refused("llookup key: b.buzz@alice")],
      ["notify:@bob:k.buzz@alice:v", refused("notify key: @bob:k.buzz@alice")],
      ["update:meta:a.wavi@alice:ttl:0", "data:<n>\n@alice@"],
    ]);
    const names = JSON.parse(await E.data("scan")) as string[];
    const publicOnes = ["publickey", "signing_publickey", "wavi.pixel.pkam.__pkams.__public_keys"];
    const expected = ["a.wavi@alice", ...publicOnes.map((name) => `public:${name}@alice`)];
    t.same(names, expected, "names without a dot are hidden");
    const synced = (JSON.parse(await E.data("sync:from:-1:limit:25")) as { atKey: string }[]).map(({ atKey }) => atKey);
    t.ok(synced.includes("a.wavi@alice"));
    t.ok(synced.includes("nodot@alice"));
    t.notOk(synced.includes("b.buzz@alice"));
    E.close();
  });

  await t.test("an ordinary enrolment reaches neither the atSign's own keys nor other enrolments", async (t) => {
    const E = await world.pkam("@alice", id);
    const closed = [
      "update:privatekey:at_pkam_publickey x",
      "update:public:publickey@alice x",
      "config:block:add:@bob",
      `enroll:delete:{"enrollmentId":"${id}"}`,
      "keys:get:keyName:privatekey:at_secret",
      "keys:delete:keyName:public:publickey@alice",
      "otp:put:abcdef",
      `llookup:${id}.default_enc_private_key.__manage@alice`,
    ];
    for (const line of closed) t.match(await E.ask(line), /^error:AT00(?:09|11)-/u, line);
    await play(t, E, [
      ["update:@bob:shared_key@alice k", "data:<n>\n@alice@"],
      [`enroll:fetch:{"enrollmentId":"${id}"}`, 'data:{"appName":"wavi",…,"status":"approved"}\n@alice@'],
    ]);
    const list = JSON.parse(await E.data("enroll:list")) as Record<string, unknown>;
    t.same(Object.keys(list), [`${id}.new.enrollments.__manage@alice`]);
    const names = JSON.parse(await U.data("scan")) as string[];
    t.notOk(
      names.some((name) => name.includes("pixel")),
      "nobody else learns which devices there are",
    );
    E.close();
  });

  await t.test("keys: each enrolment has its own", async (t) => {
    const E = await world.pkam("@alice", id);
    const other = await world.pkam("@alice", await enrolled(world, { deviceName: "second" }));
    await play(t, E, [
      ["keys:put:private:namespace:__global:keyName:mine secret", "data:-1\n@alice@"],
      [
        "keys:get:private",
        `data:["${id}.default_enc_private_key.__manage@alice","private:wavi.pixel.mine.__private_keys.__global@alice"]\n@alice@`,
      ],
      ["keys:get:keyName:private:wavi.pixel.mine.__private_keys.__global@alice", 'data:{"value":"secret",…}\n@alice@'],
    ]);
    t.match(
      await other.ask("keys:get:keyName:private:wavi.pixel.mine.__private_keys.__global@alice"),
      /^error:AT0009-/u,
    );
    await play(t, E, [
      ["keys:delete:keyName:private:wavi.pixel.mine.__private_keys.__global@alice", "data:-1\n@alice@"],
      [
        "keys:get:keyName:private:wavi.pixel.mine.__private_keys.__global@alice",
        "error:AT0015-key not found : key private:wavi.pixel.mine.__private_keys.__global@alice not found in keystore\n@alice@",
      ],
    ]);
    await play(t, A, [
      [
        "keys:get:self",
        "error:AT0011-Internal server exception : Keys verb cannot be accessed without an enrollmentId\n@alice@",
      ],
    ]);
    E.close();
    other.close();
  });

  await t.test("C93 to C96: revocation takes effect at once", async (t) => {
    const E = await world.pkam("@alice", id);
    await play(t, E, [
      [
        `enroll:revoke:{"enrollmentId":"${id}"}`,
        "error:AT0031-Cannot revoke self enrollment : Current client cannot revoke its own enrollment\n@alice@",
      ],
    ]);
    await play(t, A, [
      [`enroll:revoke:{"enrollmentId":"${id}"}`, `data:{"status":"revoked","enrollmentId":"${id}"}\n@alice@`],
    ]);
    t.equal(await E.chunk(), "{close}");
    const challenge = await U.data("from:@alice");
    await play(t, U, [
      [`pkam:enrollmentId:${id}:${pkamSignature(challenge)}`, `error:AT0027:enrollment_id: ${id} is revoked\n@`],
    ]);
    const failed = `error:AT0011-Internal server exception : Failed to approve enrollment id: ${id}.`;
    await play(t, A, [
      [
        approval(id),
        `${failed} Cannot approve a revoked enrollment. Only pending enrollments can be approved\n@alice@`,
      ],
      [`enroll:unrevoke:{"enrollmentId":"${id}"}`, `data:{"status":"approved","enrollmentId":"${id}"}\n@alice@`],
      [
        `enroll:delete:{"enrollmentId":"${id}"}`,
        `error:AT0011-Internal server exception : Failed to delete enrollment id: ${id} | Cause: …\n@alice@`,
      ],
      [`enroll:revoke:{"enrollmentId":"${id}"}`, `data:{"status":"revoked","enrollmentId":"${id}"}\n@alice@`],
      [`enroll:delete:{"enrollmentId":"${id}"}`, `data:{"enrollmentId":"${id}","status":"deleted"}\n@alice@`],
      [
        `enroll:approve:${approval("nope").slice(15)}`,
        "error:AT0028:enrollment_id: nope is expired or invalid\n@alice@",
      ],
    ]);
  });

  await t.test("denied requests and filters of the list", async (t) => {
    const reply = await U.data(request(await A.data("otp:get"), { deviceName: "third" }));
    const { enrollmentId } = JSON.parse(reply) as { enrollmentId: string };
    await play(t, A, [
      [
        `enroll:deny:{"enrollmentId":"${enrollmentId}"}`,
        `data:{"status":"denied","enrollmentId":"${enrollmentId}"}\n@alice@`,
      ],
    ]);
    const challenge = await U.data("from:@alice");
    await play(t, U, [
      [
        `pkam:enrollmentId:${enrollmentId}:${pkamSignature(challenge)}`,
        `error:AT0025:enrollment_id: ${enrollmentId} is denied\n@`,
      ],
    ]);
    const denied = JSON.parse(await A.data('enroll:list:{"enrollmentStatusFilter":["denied"]}')) as Record<
      string,
      unknown
    >;
    t.same(Object.keys(denied), [`${enrollmentId}.new.enrollments.__manage@alice`]);
  });

  await t.test("C113: nothing else passes for a passcode", async (t) => {
    await play(t, A, [["otp:put:chosen1", "data:ok\n@alice@"]]);
    const V = await world.unauthenticated("@alice");
    const challenge = await V.data("from:@alice");
    const sessionId = challenge.slice(0, challenge.indexOf("@"));
    const invalid = "error:AT0011-Exception: invalid otp. Cannot process enroll request\n@";
    await play(t, V, [[request(sessionId, { deviceName: "x" }), invalid]]);
    t.match(await V.ask(request("CHOSEN1", { deviceName: "x" })), /pending/u, "the chosen one does, in either case");
    t.match(await V.ask(request("chosen1", { deviceName: "y" })), /pending/u, "and again");
  });

  await t.test("C115: a record with `enrollments` in its name disturbs nothing", async (t) => {
    await A.data("update:x.enrollments.wavi@alice v");
    const reply = await U.ask(request(await A.data("otp:get"), { deviceName: "fourth" }));
    t.match(reply, /"status":"pending"/u);
    t.ok((await A.data("enroll:list")).startsWith("{"));
  });

  await t.test(
    "names that a record cannot have are refused when they are asked for, not after the approval",
    async (t) => {
      await play(t, U, [
        [request("x", { appName: "a b" }), "error:AT0011-Exception: appName and deviceName consist of …\n@"],
        ["enroll:request:{nonsense", "error:AT0022-Exception: …\n@"],
      ]);
      t.match(await U.ask("noop:0"), /^data:ok/u);
    },
  );

  await t.test("a manager approves what it has itself, and no more", async (t) => {
    const managerId = await enrolled(world, { deviceName: "manager", namespaces: { wavi: "r", __manage: "rw" } });
    const manager = await world.pkam("@alice", managerId);
    const ask = async (deviceName: string, namespaces: object): Promise<string> => {
      const reply = await U.data(request(await manager.data("otp:get"), { deviceName, namespaces }));
      return (JSON.parse(reply) as { enrollmentId: string }).enrollmentId;
    };
    const reader = await ask("m1", { wavi: "r" });
    await play(t, manager, [[approval(reader), `data:{"status":"approved","enrollmentId":"${reader}"}\n@alice@`]]);
    for (const namespaces of [{ wavi: "rw" }, { buzz: "r" }, { "*": "r" }]) {
      const wanted = await ask(`m-${JSON.stringify(namespaces).replaceAll(/\W/gu, "")}`, namespaces);
      t.match(await manager.ask(approval(wanted)), /^error:AT0011-.*not authorized for namespaces/u);
    }
  });
});

t.test("an enrolment connection ends when its enrolment does", async (t) => {
  await using world = await WireWorld.open(t.testdir(), { settings });
  await world.add("@alice");
  await world.activate("@alice");
  const id = await enrolled(world, { apkamKeysExpiryInMillis: 400 });
  const E = await world.pkam("@alice", id);
  t.equal(await E.ask("noop:500"), "data:ok\n@alice@");
  E.send("noop:0\n");
  t.equal(await E.chunk(), "{close}");
  const U = await world.unauthenticated("@alice");
  const challenge = await U.data("from:@alice");
  t.equal(
    await U.ask(`pkam:enrollmentId:${id}:${pkamSignature(challenge)}`),
    `error:AT0028:enrollment_id: ${id} is expired or invalid\n@`,
  );
});

t.test("requests are limited per address, too: a new connection does not begin anew", async (t) => {
  await using world = await WireWorld.open(t.testdir(), { settings: { ...settings, enrollRequestsPerAddressMax: 2 } });
  await world.add("@alice");
  await world.activate("@alice");
  const A = await world.pkam("@alice");
  const replies: string[] = [];
  for (const deviceName of ["one", "two", "three"]) {
    const U = await world.unauthenticated("@alice");
    replies.push(await U.ask(request(await A.data("otp:get"), { deviceName })));
    U.close();
  }
  t.match(replies[1], /pending/u);
  t.match(replies[2], /^error:AT0011-Exception: Enrollment requests have exceeded the limit/u);
});

t.test("requests are limited per connection", async (t) => {
  await using world = await WireWorld.open(t.testdir(), { settings: { ...settings, enrollRequestsMax: 2 } });
  await world.add("@alice");
  await world.activate("@alice");
  const A = await world.pkam("@alice");
  const U = await world.unauthenticated("@alice");
  for (const deviceName of ["one", "two"])
    t.match(await U.ask(request(await A.data("otp:get"), { deviceName })), /pending/u);
  t.equal(
    await U.ask(request(await A.data("otp:get"), { deviceName: "three" })),
    "error:AT0011-Exception: Enrollment requests have exceeded the limit within the specified time frame\n@",
  );
});
