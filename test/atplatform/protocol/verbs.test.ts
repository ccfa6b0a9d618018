import { isDeepStrictEqual } from "node:util";
import fc from "fast-check";
import t from "tap";
import { makeAtKey } from "../../../atplatform/protocol/at-key.js";
import { parseAtSign } from "../../../atplatform/protocol/at-sign.js";
import { normaliseCommand, verbOf, type VerbName } from "../../../atplatform/protocol/command-line.js";
import type { VerbCodec } from "../../../atplatform/protocol/verb-codec.js";
import { VERBS } from "../../../atplatform/protocol/verbs.js";
import { vectors } from "../../fixtures/vectors.js";

interface CommandVectors {
  readonly commands: readonly { readonly name: string; readonly command: string }[];
  readonly rejected: readonly { readonly name: string; readonly command: string }[];
}
interface EnrollmentVectors {
  readonly newDevice: { readonly requestCommand: string };
  readonly approver: { readonly approveCommand_zeroIv: string; readonly approveCommand_randomIv_laterRevision: string };
  readonly keysGet: { readonly encPrivateKeyCommand: string; readonly selfKeyCommand: string };
  readonly firstEnrollmentOnCram: { readonly requestCommand: string };
}
interface AuthVectors {
  readonly pkam: readonly { readonly commands: Readonly<Record<string, string>> }[];
  readonly cram: { readonly command: string };
  readonly pkamEcc: { readonly command: string };
}

/** What an atServer does with a line, but for carrying it out. */
function parseLine(text: string): { readonly verb: VerbName; readonly command: unknown } {
  const line = normaliseCommand(text);
  const verb = verbOf(line);
  if (!verb) throw new Error(`no verb: ${line}`);
  return { verb, command: VERBS[verb].parse(line) };
}

/** Parses a line and formats what it says again. */
function again(text: string): string {
  const { verb, command } = parseLine(text);
  return (VERBS[verb] as VerbCodec<unknown>).format(command);
}

const codecs = Object.entries(VERBS) as [VerbName, VerbCodec<unknown>][];
const alice = parseAtSign("@alice");
const bob = parseAtSign("@bob");

t.test("the vectors", async (t) => {
  const { commands, rejected } = vectors<CommandVectors>("commands.json");
  t.test("are read, and formatted to the same bytes", async (t) => {
    const { newDevice, approver, keysGet, firstEnrollmentOnCram } = vectors<EnrollmentVectors>("enrollment.json");
    const { pkam, cram, pkamEcc } = vectors<AuthVectors>("auth.json");
    const lines = [
      ...commands.map(({ command }) => command),
      ...pkam.flatMap((login) => Object.values(login.commands)),
      cram.command,
      pkamEcc.command,
      newDevice.requestCommand,
      approver.approveCommand_zeroIv,
      approver.approveCommand_randomIv_laterRevision,
      keysGet.encPrivateKeyCommand,
      keysGet.selfKeyCommand,
      firstEnrollmentOnCram.requestCommand,
    ];
    t.equal(lines.length, 42);
    for (const line of lines) t.equal(again(line), line.trimEnd(), line.slice(0, 60));
  });

  t.test("of what the reference rejects are answered with AT0003 and the usage", async (t) => {
    for (const { name, command } of rejected) {
      t.throws(
        () => parseLine(command),
        { code: "COMMAND_INVALID", atCode: "AT0003", message: /^Invalid syntax\. ./u },
        name,
      );
    }
  });
});

t.test("what the lines say", async (t) => {
  const cases: Readonly<Record<string, unknown>> = {
    "from:alice": { atSign: "@alice" },
    'FROM:@Al.ice:ClientConfig:{"version":"3.0.38","clientId":null,"x":1}': {
      atSign: "@alice",
      clientConfig: { version: "3.0.38" },
    },
    "cram:00ff": { digest: "00ff" },
    pol: {},
    "pkam:AAAA": { signature: "AAAA" },
    "pkam:hashingAlgo:SHA512:enrollmentId:e-1:AA==": { hashingAlgo: "sha512", enrollmentId: "e-1", signature: "AA==" },
    // An unknown algorithm ends in the signature, which then is not base64.
    "pkam:signingAlgo:mldsa65:AAAA": { signature: "signingAlgo:mldsa65:AAAA" },
    "update:phone.wavi@alice +1 2": { key: "phone.wavi@alice", value: "+1 2", options: {} },
    "update:k.wavi@alice  x ": { key: "k.wavi@alice", value: " x", options: {} },
    "update:Caps.Wavi@Al.ice V:a@b": { key: "caps.wavi@alice", value: "V:a@b", options: {} },
    "update:🦄.wavi@alice v": { key: "🦄.wavi@alice", value: "v", options: {} },
    "update:a,b.wavi@alice v": { key: "a,b.wavi@alice", value: "v", options: {} },
    "update:ttl:0:x@alice v": { key: "x@alice", value: "v", options: { ttlMs: 0 } },
    "update:ttl:-1:TTR:-1:ccd:TRUE:isBinary:false:@bob:x@alice v": {
      key: "@bob:x@alice",
      value: "v",
      options: { ttlMs: -1, ttrSeconds: -1, ccd: true, isBinary: false },
    },
    "update:ccd:null:sharedKeyEnc:null:hash:ab:algo:sha512:ivNonce:N==:x@alice v": {
      key: "x@alice",
      value: "v",
      options: { sharedKeyEnc: null, hash: "ab", algo: "sha512", ivNonce: "N==" },
    },
    "update:ttl@alice v": { key: "ttl@alice", value: "v", options: {} },
    "update:public@alice v": { key: "public@alice", value: "v", options: {} },
    "update:metadata@alice v": { key: "metadata@alice", value: "v", options: {} },
    "update:noowner v": { key: "noowner", value: "v", options: {} },
    "update:privatekey:at_pkam_publickey MIIB": { key: "privatekey:at_pkam_publickey", value: "MIIB", options: {} },
    'update:json:{"atKey":"Phone","value":" v ","sharedBy":"alice","sharedWith":"@bob","metadata":{"ttl":5,"isEncrypted":true,"ttb":"x","isPublic":false,"ivNonce":"a:b","encAlgo":"null","ttr":1.5}}':
      { key: "@bob:phone@alice", value: " v", options: { ttlMs: 5, isEncrypted: true, encAlgo: null } },
    'update:json:{"atKey":"phone","value":"v","sharedBy":"@alice","metadata":{"isPublic":true}}': {
      key: "public:phone@alice",
      value: "v",
      options: {},
    },
    "update:meta:@bob:phone@alice:ttl:5:isEncrypted:true": {
      key: "@bob:phone@alice",
      options: { ttlMs: 5, isEncrypted: true },
    },
    "update:meta:p@alice": { key: "p@alice", options: {} },
    "llookup:a.b@alice": { part: "value", key: "a.b@alice" },
    "llookup:all@alice": { part: "value", key: "all@alice" },
    "llookup:meta:all@alice": { part: "meta", key: "all@alice" },
    "llookup:ALL:cached:public:X@bob": { part: "all", key: "cached:public:x@bob" },
    "llookup:cached:@alice:c.wavi@bob": { part: "value", key: "cached:@alice:c.wavi@bob" },
    "llookup:private:blocklist@alice": { part: "value", key: "private:blocklist@alice" },
    "lookup:phone@bob": { part: "value", bypassCache: false, entity: "phone", owner: "@bob" },
    "lookup:bypassCache:false:meta:Ph one@b.ob": { part: "meta", bypassCache: false, entity: "phone", owner: "@bob" },
    "lookup:all@bob": { part: "value", bypassCache: false, entity: "all", owner: "@bob" },
    "lookup:@alice:phone@bob": { part: "value", bypassCache: false, entity: "@alice:phone", owner: "@bob" },
    "lookup:_5b3e@alice": { part: "value", bypassCache: false, entity: "_5b3e", owner: "@alice" },
    "plookup:bypassCache:true:all:publickey@bob": {
      part: "all",
      bypassCache: true,
      entity: "publickey",
      owner: "@bob",
    },
    "delete:@bob:phone@alice": { key: "@bob:phone@alice" },
    "delete:priority:high:cached:@alice:phone@bob": { priority: "high", key: "cached:@alice:phone@bob" },
    "delete:privatekey:at_secret": { key: "privatekey:at_secret" },
    "delete:public:publickey@alice": { key: "public:publickey@alice" },
    "delete:priority@alice": { key: "priority@alice" },
    scan: { showHidden: false },
    "scan \\D:x": { showHidden: false, regex: "\\D:x" },
    "scan:showhidden:true:@bob:page:2 .*": { showHidden: true, atSign: "@bob", regex: ".*" },
    "notify:@bob:k.wavi@alice": {
      ...{ operation: "update", messageType: "key", options: {} },
      ...{ to: "@bob", key: "k.wavi", owner: "@alice" },
    },
    "notify:messageType:text:@bob:hello there: you": {
      ...{ operation: "update", messageType: "text", options: {} },
      ...{ to: "@bob", key: "hello there: you" },
    },
    "notify:id:a-1:delete:messagetype:KEY:priority:low:strategy:latest:latestN:2:notifier:me@x:ttln:5:ttl:6:ccd:null:isEncrypted:false:@bob:K.wavi@alice:v@w:x":
      {
        ...{ id: "a-1", operation: "delete", messageType: "key", priority: "low", strategy: "latest", latestN: 2 },
        ...{ notifier: "me@x", ttlnMs: 5, options: { ttlMs: 6, isEncrypted: false } },
        ...{ to: "@bob", key: "K.wavi", owner: "@alice", value: "v@w:x" },
      },
    "notify:update:ttr:-1:@bob:public:phone.wavi@alice:+1": {
      ...{ operation: "update", messageType: "key", options: { ttrSeconds: -1 } },
      ...{ to: "@bob", key: "public:phone.wavi", owner: "@alice", value: "+1" },
    },
    "notify:id:z:update:ttr:-1:@alice:x@carol:v": {
      ...{ id: "z", operation: "update", messageType: "key", options: { ttrSeconds: -1 } },
      ...{ to: "@alice", key: "x", owner: "@carol", value: "v" },
    },
    // The traps of 3.13: a text with an `@` has an owner, a key without owner takes the value, `::` ends a key.
    "notify:messageType:text:@bob:mail x@y": {
      ...{ operation: "update", messageType: "text", options: {} },
      ...{ to: "@bob", key: "mail x", owner: "@y" },
    },
    "notify:@bob:phone.wavi:v": {
      ...{ operation: "update", messageType: "key", options: {}, to: "@bob", key: "phone.wavi:v" },
    },
    "notify:@bob:ab::cd@e": {
      ...{ operation: "update", messageType: "key", options: {}, to: "@bob", key: "ab", value: ":cd@e" },
    },
    "notify:@bob:ab:c@ d": {
      ...{ operation: "update", messageType: "key", options: {}, to: "@bob", key: "ab", value: "c@ d" },
    },
    "notify:public:phone@bob:v": {
      ...{ operation: "update", messageType: "key", options: {}, key: "phone", owner: "@bob", value: "v" },
    },
    "notify:list": {},
    "notify:list:2024-01-02:2024-01-03:.wavi": { fromDate: "2024-01-02", toDate: "2024-01-03", regex: ".wavi" },
    "notify:list:nomatch": { regex: "nomatch" },
    "notify:status:nope": { id: "nope" },
    "notify:fetch:a-b_1": { id: "a-b_1" },
    "notify:remove:nope": { id: "nope" },
    "notify:all:update:messageType:key:ttl:5:@bob,@carol,bob:phone@alice:v w": {
      ...{ operation: "update", messageType: "key", options: { ttlMs: 5 } },
      ...{ to: ["@bob", "@carol"], key: "phone", owner: "@alice", value: "v w" },
    },
    monitor: { strict: false, selfNotifications: false, multiplexed: false },
    "monitor:STRICT:selfNotifications:multiplexed:0 ^@me:x y": {
      ...{ strict: true, selfNotifications: true, multiplexed: true, epochMillis: 0, regex: "^@me:x y" },
    },
    stats: { ids: [] },
    "stats:3,7,3": { ids: [3, 7] },
    "stats:3:.wavi:x": { ids: [3], regex: ".wavi:x" },
    "sync:from:-1:limit:10": { commitId: -1, limit: 10 },
    "sync:from:5:limit:10:.wavi:x": { commitId: 5, limit: 10, regex: ".wavi:x" },
    "config:block:show": { action: "block-show" },
    "config:block:add:@bob @Car.ol": { action: "block-add", atSigns: ["@bob", "@carol"] },
    "config:block:remove:@bob": { action: "block-remove", atSigns: ["@bob"] },
    "config:set:autoNotify=false": { action: "set", name: "autoNotify", value: "false" },
    "config:print:autoNotify": { action: "print", name: "autoNotify" },
    "config:reset:autoNotify": { action: "reset", name: "autoNotify" },
    'batch:[{"id":1,"command":"update:a@alice v"},{"id":2,"command":"llookup:"}]': {
      commands: [
        { id: 1, command: "update:a@alice v" },
        { id: 2, command: "llookup:" },
      ],
    },
    info: { brief: false },
    "info:brief": { brief: true },
    "noop:0": { delayMs: 0 },
    "noop:005000": { delayMs: 5000 },
    "otp:get": { action: "get" },
    "otp:get:ttl:60000": { action: "get", ttlMs: 60000 },
    "otp:put:ABC123": { action: "put", passcode: "ABC123" },
    "enroll:list": { operation: "list", force: false, params: {} },
    'enroll:list:{"enrollmentStatusFilter":["approved,pending"]}': {
      ...{ operation: "list", force: false, params: { enrollmentStatusFilter: ["pending", "approved"] } },
    },
    'enroll:revoke:force:{"enrollmentId":"e","unknown":1}': {
      ...{ operation: "revoke", force: true, params: { enrollmentId: "e" } },
    },
    "keys:get:self": { operation: "get", visibility: "self" },
    "keys:get:keyName:e.default_enc_private_key.__manage@alice": {
      ...{ operation: "get", keyName: "e.default_enc_private_key.__manage@alice" },
    },
    "keys:delete:keyName:x": { operation: "delete", keyName: "x" },
    "keys:put:private:namespace:__global:appName:wavi:deviceName:pixel:keyType:aes256:encryptionKeyName:k:keyName:n a b":
      {
        ...{ operation: "put", visibility: "private", namespace: "__global", appName: "wavi", deviceName: "pixel" },
        ...{ keyType: "aes256", encryptionKeyName: "k", keyName: "n", value: "a b" },
      },
    "stream:receive 5": { action: "receive" },
  };
  for (const [line, command] of Object.entries(cases)) t.same(parseLine(line).command, command, encodeURI(line));
});

t.test("what lines are refused", async (t) => {
  const syntax = [
    ...[
      "from:",
      "from:@alice@bob",
      "from:@alice:clientconfig",
      "from:@alice x",
      "cram:",
      "pkam:",
      "pkam:enrollmentId:e",
    ],
    ...[
      "update:",
      "update:k.wavi@alice",
      "update: v",
      "update:k@alice\tv",
      "update:public:@alice:k@alice v",
      "update:public:public:x@a v",
    ],
    ...["update:ttl:x:k@alice v", "update:ttb:1:ttl:1:k@alice v", "update:ttl:99999999999999999:k@alice v"],
    ...["update:privatekey:at_secret v", "update:k@alice@bob v", "update:json:{", "update:json:[]", "update:json:{}"],
    ...['update:json:{"atKey":"a:b","value":"v"}', 'update:json:{"atKey":"a","value":""}', "update:k@alice a\rb"],
    ...[
      'update:json:{"atKey":"a","value":"x\\ny"}',
      "update:meta:ttl:20000:phone@alice",
      "update:meta:phone",
      "update:meta:phone@alice:x",
    ],
    ...[
      "llookup:",
      "llookup:a",
      "llookup:a@",
      "llookup:all:",
      "llookup:@alice",
      "llookup:a@b@c",
      "llookup::a@b",
      "llookup:a::b@c",
    ],
    ...["lookup:", "lookup:@bob", "lookup::a@b", "lookup:a", "lookup:a@b c", "plookup:a@b@c", "plookup:@b"],
    ...[
      "delete:",
      "delete:privatekey:at_pkam_publickey",
      "delete:x@alice y",
      "delete:priority:urgent:x@alice",
      "delete:a:b@alice",
    ],
    ...["scan@", "scanx", "scan:", "scan  x", "scan a b", "scan:@", "scan:page:x", "scan:@bob:showhidden:true"],
    ...["notify:@bob", "notify:@bob:", "notify:bob:xy", "notify:@bob:xy@", "notify:@bob:xy@alice:", "notify:@bob::xy"],
    ...[
      "notify:ttr:-1:update:@bob:k.wavi@alice:v",
      "notify:ttln:-1:@bob:xy",
      "notify:id:a.b:@bob:xy",
      "notify:@bob:@alice:x",
    ],
    ...[
      "notify:status:",
      "notify:status:a b",
      "notify:fetch:a:b",
      "notify:list:a:b",
      "notify:listing",
      "notify:all:@bob",
      "notify:all::x",
    ],
    ...["notify:all:@bob,,@c:x", "notify:all:isEncrypted:true:@bob:x", "notify:all:@bob:x@alice:"],
    ...["monitor:x", "monitor:-1", "monitor:selfNotifications:strict", "monitorx", "monitor:1 x\ny"],
    ...["stats:", "stats:-1", "stats:0", "stats:1,", "stats:1,x", "stats:7:x", "stats:3,15:x", "stats:3:", "statsx"],
    ...[
      "sync:from:",
      "sync:from:1",
      "sync:from:-2:limit:1",
      "sync:from:1:limit:-1",
      "sync:from:1:limit:1:",
      "sync:from:1.5:limit:1",
    ],
    ...[
      "config:",
      "config:block:add:",
      "config:block:add:bob",
      "config:block:show:x",
      "config:set:x",
      "config:print:",
      "config:block:x:@bob",
    ],
    ...[
      "noop:",
      "noop:-1",
      "noop:x",
      "noop:1.5",
      "otp:put",
      "otp:put:",
      "otp:validate:ABC123",
      "otp:get:ttl:x",
      "otp:get x",
    ],
    ...[
      "enroll:",
      "enroll:x:{}",
      "keys:",
      "keys:put",
      "keys:put:keyName:n v",
      "keys:put:self:keyName:n",
      "keys:get:",
      "keys:get:self x",
    ],
    ...[
      "keys:delete:self",
      "keys:get:keyName:",
      "keys:get:keyName:a b",
      "keys:put:self:bogus:x:keyName:n v",
      "stream",
      "stream:x",
      "batch:",
    ],
  ];
  for (const line of syntax) {
    t.throws(
      () => parseLine(line),
      { code: "COMMAND_INVALID", atCode: "AT0003", message: /^Invalid syntax\. ./u },
      encodeURI(line),
    );
  }

  const others: readonly (readonly [line: string, expected: Readonly<Record<string, string>>])[] = [
    ["from:al!ce", { code: "AT_SIGN_INVALID" }],
    ["update:k@al!ce v", { code: "AT_SIGN_INVALID" }],
    ["from:@alice:clientConfig:{", { atCode: "AT0022" }],
    ["from:@alice:clientConfig:5", { atCode: "AT0022" }],
    [
      "noop:5001",
      { atCode: "AT0022", message: "noop:<durationInMillis> where the duration maximum is 5000 milliseconds" },
    ],
    ["noop:99999999999999999999", { atCode: "AT0022" }],
    ["enroll:request", { atCode: "AT0022", message: "Enroll parameters not provided" }],
    ["enroll:approve:{", { atCode: "AT0022", message: "Enroll parameters are not JSON" }],
    ["enroll:approve:[]", { atCode: "AT0022", message: "Enroll parameters are not a JSON object" }],
    ['enroll:request:{"appName":5}', { atCode: "AT0022", message: "Enroll parameter appName is not valid" }],
    ['enroll:request:{"namespaces":{"a":"x"}}', { atCode: "AT0022" }],
    ['enroll:request:{"namespaces":["a"]}', { atCode: "AT0022" }],
    ['enroll:list:{"enrollmentStatusFilter":["sleeping"]}', { atCode: "AT0022" }],
    ["notify:list:2021-1-2", { atCode: "AT0022", message: "Invalid date format" }],
    ["notify:list:2021-13-02", { atCode: "AT0022", message: "Invalid date format" }],
    ["notify:list:2021-02-02:2021-02-01", { atCode: "AT0022", message: "ToDate cannot be less than FromDate" }],
    ["batch:{}", { atCode: "AT0022", message: "batch: expected a JSON array" }],
    ["batch:[", { atCode: "AT0022" }],
    ['batch:[{"id":1}]', { atCode: "AT0022" }],
  ];
  for (const [line, expected] of others) {
    t.throws(() => parseLine(line), { code: "COMMAND_INVALID", ...expected }, encodeURI(line));
  }
});

t.test("what format refuses", async (t) => {
  const { update, llookup, lookup, notify, noop, otp, config, batch, stats, monitor, enroll } = VERBS;
  const key = makeAtKey({ entity: "k.wavi", owner: alice });
  t.throws(() => update.format({ key, value: "a\nscan", options: {} }), { code: "SYNTAX_INVALID" });
  t.throws(() => update.format({ key, value: "", options: {} }), { code: "COMMAND_INVALID" });
  t.throws(() => update.format({ key, value: "x ", options: {} }), { message: /white space/u });
  t.throws(() => update.format({ key: "k@alice v", value: "x", options: {} }), { code: "SYNTAX_INVALID" });
  t.throws(() => update.format({ key: "ttl:5:k@alice", value: "x", options: {} }), { code: "SYNTAX_INVALID" });
  t.throws(() => update.format({ key, value: "x", options: { ivNonce: "a:b" } }), { code: "SYNTAX_INVALID" });
  t.throws(() => update.format({ key, value: "x", options: { ttlMs: 1.5 } }), { code: "SYNTAX_INVALID" });
  t.throws(() => llookup.format({ part: "value", key: "all:x@alice" }), { code: "SYNTAX_INVALID" });
  t.throws(() => lookup.format({ part: "value", bypassCache: false, entity: "META:x", owner: bob }));
  const told = { operation: "update", messageType: "key", options: {}, to: bob } as const;
  t.throws(() => notify.format({ ...told, key: "k.wavi", value: "v" }), { code: "COMMAND_INVALID" });
  t.throws(() => notify.format({ ...told, key: "a::b", owner: alice }), { code: "SYNTAX_INVALID" });
  t.throws(() => notify.format({ ...told, key: "k.wavi", owner: alice, id: "a:b" }), { code: "SYNTAX_INVALID" });
  t.throws(() => noop.format({ delayMs: 5001 }), { code: "SYNTAX_INVALID" });
  t.throws(() => config.format({ action: "block-add", atSigns: [] }), { code: "COMMAND_INVALID" });
  t.throws(() => batch.format({ commands: [{ id: 1, command: "a\nb" }] }), { code: "SYNTAX_INVALID" });
  t.throws(() => stats.format({ ids: [7], regex: "x" }), { code: "COMMAND_INVALID" });
  t.throws(() => monitor.format({ strict: false, selfNotifications: false, multiplexed: false, regex: " x" }));
  t.equal(enroll.format({ operation: "list", force: false, params: {} }), "enroll:list");
  // No error shows a passcode.
  t.throws(() => otp.format({ action: "put", passcode: "s3:t" }), { message: /^(?!.*s3)/u });
});

t.test("properties", async (t) => {
  const word = fc.stringMatching(/^[A-Za-z0-9+/=_.-]{1,12}$/u).filter((text) => text !== "null");
  const atSign = fc.stringMatching(/^@[a-z0-9_🦄-]{1,10}$/u).map(parseAtSign);
  const entity = fc.stringMatching(/^[a-z0-9_-]{2,8}(\.[a-z_]{1,6}){0,2}$/u);
  const key = fc
    .record({ scope: fc.oneof(fc.constant(undefined), fc.constant("public" as const), atSign), entity, owner: atSign })
    .map(makeAtKey);
  const value = fc
    .string({ unit: "grapheme", minLength: 1 })
    .filter((text) => !/[\r\n]/u.test(text) && text === text.trimEnd());
  const millis = fc.nat();
  const nullable = fc.oneof(word, fc.constant(null));
  const options = fc.record(
    {
      ...{ ttlMs: fc.integer(), ttbMs: millis, ttrSeconds: fc.integer({ min: -1 }), ccd: fc.boolean() },
      ...{ dataSignature: nullable, isBinary: fc.boolean(), isEncrypted: fc.boolean(), sharedKeyEnc: nullable },
      ...{ pubKeyCS: nullable, hash: word, algo: word, encoding: nullable, encKeyName: nullable, encAlgo: nullable },
      ...{ ivNonce: nullable, skeEncKeyName: nullable, skeEncAlgo: nullable },
    },
    { requiredKeys: [] },
  );
  const regex = fc.string({ minLength: 1 }).filter((text) => /^\S+$/u.test(text));
  const part = fc.constantFrom("value", "meta", "all");
  const lookup = fc.record({ part, bypassCache: fc.boolean(), entity, owner: atSign });
  const none: { requiredKeys: never[] } = { requiredKeys: [] };
  const id = fc.stringMatching(/^[\w-]{1,20}$/u);
  const byId = fc.record({ id });

  const commands: Readonly<Record<Exclude<VerbName, "stream">, fc.Arbitrary<unknown>>> = {
    from: fc.oneof(fc.record({ atSign }), fc.record({ atSign, clientConfig: fc.record({ version: value }, none) })),
    cram: fc.record({ digest: word }),
    pkam: fc.record(
      {
        ...{
          signingAlgo: fc.constantFrom("rsa2048", "ecc_secp256r1"),
          hashingAlgo: fc.constantFrom("sha256", "sha512"),
        },
        ...{ enrollmentId: fc.uuid(), signature: fc.base64String({ minLength: 4 }) },
      },
      { requiredKeys: ["signature"] },
    ),
    pol: fc.constant({}),
    update: fc.record({ key, value, options }),
    "update:meta": fc.record({ key, options }),
    llookup: fc.record({ part, key }),
    lookup,
    plookup: lookup,
    scan: fc.record({ showHidden: fc.boolean(), atSign, regex }, { requiredKeys: ["showHidden"] }),
    delete: fc.record({ key, priority: fc.constantFrom("low", "medium", "high") }, { requiredKeys: ["key"] }),
    stats: fc.oneof(
      fc.record({ ids: fc.uniqueArray(fc.integer({ min: 1, max: 99 })) }),
      fc.record({ ids: fc.constantFrom([3], [15]), regex }),
    ),
    config: fc.oneof(
      fc.constant({ action: "block-show" }),
      fc.record({ action: fc.constantFrom("block-add", "block-remove"), atSigns: fc.array(atSign, { minLength: 1 }) }),
      fc.record({ action: fc.constant("set"), name: fc.stringMatching(/^\w+$/u), value }),
      fc.record({ action: fc.constantFrom("reset", "print"), name: fc.stringMatching(/^\w+$/u) }),
    ),
    monitor: fc.record(
      {
        ...{ strict: fc.boolean(), selfNotifications: fc.boolean(), multiplexed: fc.boolean() },
        ...{ epochMillis: millis, regex },
      },
      { requiredKeys: ["strict", "selfNotifications", "multiplexed"] },
    ),
    notify: fc.oneof(
      fc.record(
        {
          ...{ id, operation: fc.constantFrom("update", "delete"), messageType: fc.constant("key"), options },
          ...{ priority: fc.constantFrom("low", "high"), strategy: fc.constantFrom("all", "latest"), latestN: millis },
          ...{ notifier: word, ttlnMs: millis, to: atSign, key: entity, owner: atSign, value },
        },
        { requiredKeys: ["operation", "messageType", "options", "to", "key", "owner"] },
      ),
      fc.record({
        ...{ operation: fc.constant("update"), messageType: fc.constant("text"), options, to: atSign },
        key: value.filter((text) => /^(?!.*::)[^:@][^@]*$/u.test(text)),
      }),
    ),
    "notify:list": fc.oneof(
      fc.record({ regex: regex.filter((text) => !text.includes(":") && !/^\d/u.test(text)) }, none),
      fc.record(
        { fromDate: fc.constant("2024-02-03"), toDate: fc.constant("2024-02-29") },
        { requiredKeys: ["fromDate"] },
      ),
    ),
    ...{ "notify:status": byId, "notify:fetch": byId, "notify:remove": byId },
    "notify:all": fc.record(
      {
        ...{ operation: fc.constantFrom("update", "delete"), messageType: fc.constantFrom("key", "text") },
        options: fc.record({ ttlMs: millis, ttbMs: millis, ttrSeconds: fc.integer(), ccd: fc.boolean() }, none),
        ...{ to: fc.uniqueArray(atSign, { minLength: 1, maxLength: 4 }), key: entity, owner: atSign, value },
      },
      { requiredKeys: ["operation", "messageType", "options", "to", "key", "owner"] },
    ),
    batch: fc.record({
      commands: fc.array(fc.record({ id: fc.nat(), command: value.filter((text) => text !== "null") })),
    }),
    "sync:from": fc.record(
      { commitId: fc.integer({ min: -1 }), limit: millis, regex },
      { requiredKeys: ["commitId", "limit"] },
    ),
    info: fc.record({ brief: fc.boolean() }),
    noop: fc.record({ delayMs: fc.nat(5000) }),
    enroll: fc.record({
      ...{ operation: fc.constantFrom("list", "request"), force: fc.boolean() },
      params: fc.record(
        {
          ...{ enrollmentId: value, appName: value, namespaces: fc.dictionary(entity, fc.constantFrom("r", "rw")) },
          ...{ otp: value, encPrivateKeyIV: value, apkamKeysExpiryInMillis: millis },
        },
        { requiredKeys: ["enrollmentId"] },
      ),
    }),
    otp: fc.oneof(
      fc.record({ action: fc.constant("get"), ttlMs: millis }, { requiredKeys: ["action"] }),
      fc.record(
        { action: fc.constant("put"), passcode: fc.stringMatching(/^\w{6,12}$/u), ttlMs: millis },
        { requiredKeys: ["action", "passcode"] },
      ),
    ),
    keys: fc.oneof(
      fc.record({ operation: fc.constant("get"), visibility: fc.constantFrom("public", "private", "self") }),
      fc.record({ operation: fc.constantFrom("get", "delete"), keyName: regex }),
      fc.record(
        {
          ...{ operation: fc.constant("put"), visibility: fc.constantFrom("public", "private", "self") },
          ...{ namespace: id, appName: id, deviceName: id, keyType: id, encryptionKeyName: id, keyName: regex, value },
        },
        { requiredKeys: ["operation", "visibility", "keyName", "value"] },
      ),
    ),
  };

  for (const [verb, command] of Object.entries(commands) as [VerbName, fc.Arbitrary<unknown>][]) {
    const codec = VERBS[verb] as VerbCodec<unknown>;
    t.test(`${verb}: parses what it formats`, async () => {
      fc.assert(
        fc.property(command, (given) => {
          const line = codec.format(given);
          const read = parseLine(`${line}\r\n`);
          return read.verb === verb && isDeepStrictEqual(read.command, JSON.parse(JSON.stringify(given)));
        }),
      );
    });
  }

  // Whatever text stands in the fields: a command is refused or means what it says, never more.
  const hostile = fc.string({
    unit: fc.constantFrom(
      "a",
      ":",
      "@",
      " ",
      "\n",
      "\r",
      "::",
      ":ttl:1",
      "all:",
      "public:",
      "=",
      "{",
      "null",
      "@alice",
    ),
    maxLength: 4,
  });
  const fieldsAreKept = (verb: VerbName, shape: fc.Arbitrary<Readonly<Record<string, unknown>>>): void => {
    const codec = VERBS[verb] as VerbCodec<unknown>;
    fc.assert(
      fc.property(shape, (given) => {
        let line: string;
        try {
          line = codec.format(given);
        } catch (error) {
          return isTyped(error);
        }
        try {
          const read = parseLine(line);
          return read.verb === verb && plain(read.command) === plain(given);
        } catch (error) {
          return isTyped(error);
        }
      }),
      { numRuns: 2000 },
    );
  };
  t.test("no field says more than its own", async () => {
    const base = { operation: fc.constant("update"), messageType: fc.constant("key"), options: fc.constant({}) };
    fieldsAreKept(
      "update",
      fc.record({ key: hostile, value: hostile, options: fc.record({ ivNonce: hostile }, none) }),
    );
    fieldsAreKept("update:meta", fc.record({ key: hostile, options: fc.record({ encoding: hostile }, none) }));
    fieldsAreKept("llookup", fc.record({ part, key: hostile }));
    fieldsAreKept("lookup", fc.record({ part, bypassCache: fc.boolean(), entity: hostile, owner: fc.constant(bob) }));
    fieldsAreKept("plookup", fc.record({ part, bypassCache: fc.boolean(), entity: hostile, owner: fc.constant(bob) }));
    fieldsAreKept("delete", fc.record({ key: hostile }));
    fieldsAreKept("scan", fc.record({ showHidden: fc.boolean(), regex: hostile }));
    fieldsAreKept(
      "notify",
      fc.record({
        ...base,
        id: hostile,
        to: fc.constant(bob),
        key: hostile,
        owner: fc.constant(alice),
        value: hostile,
      }),
    );
    fieldsAreKept("notify", fc.record({ ...base, notifier: hostile, to: fc.constant(bob), key: hostile }));
    fieldsAreKept("pkam", fc.record({ enrollmentId: hostile, signature: hostile }));
    fieldsAreKept("config", fc.record({ action: fc.constant("set"), name: hostile, value: hostile }));
    fieldsAreKept(
      "keys",
      fc.record({
        operation: fc.constant("put"),
        visibility: fc.constant("self"),
        keyType: hostile,
        keyName: hostile,
        value: hostile,
      }),
    );
    fieldsAreKept("keys", fc.record({ operation: fc.constant("get"), keyName: hostile }));
    fieldsAreKept("sync:from", fc.record({ commitId: fc.constant(1), limit: fc.constant(1), regex: hostile }));
    fieldsAreKept("notify:list", fc.record({ regex: hostile }));
  });

  t.test("garbage meets typed errors only", async () => {
    const piece = fc.constantFrom(
      ...[...codecs.map(([verb]) => verb), ...codecs.map(([verb]) => `${verb}:`)],
      ...[
        "ttl:",
        "1",
        "-",
        "@",
        ":",
        "@alice",
        "@bob:",
        "public:",
        "cached:",
        "all:",
        "key.ns",
        " ",
        "\n",
        "{",
        "}",
        "[",
        "]",
      ],
      ...[
        '"a":',
        "true",
        "isEncrypted:",
        "::",
        "🦄",
        "\ud83d",
        "__proto__",
        ",",
        "=",
        "limit:",
        "keyName:",
        "put:",
        "get",
      ],
    );
    fc.assert(
      fc.property(fc.constantFrom(...codecs), fc.array(piece), fc.boolean(), ([verb, codec], pieces, withVerb) => {
        const line = normaliseCommand((withVerb ? `${verb}:` : "") + pieces.join(""));
        try {
          codec.parse(line);
          return true;
        } catch (error) {
          return isTyped(error);
        }
      }),
      { numRuns: 5000 },
    );
  });

  t.test("a long line takes time in proportion to its length", async (t) => {
    const shapes = [":", "::", "a:", ":a", "@", "@a", " ", "a", ":ttl:1", "1,", "\u2028", "[", "🦄"];
    const timeOf = (length: number): number => {
      const started = performance.now();
      for (const [verb, codec] of codecs) {
        for (const shape of shapes) {
          try {
            codec.parse(normaliseCommand(`${verb}:${shape.repeat(length / shape.length)}!`));
          } catch (error) {
            if (!isTyped(error)) throw error;
          }
        }
      }
      return performance.now() - started;
    };
    timeOf(1000);
    // Twenty times the length: a quadratic grammar would need four hundred times the time, some minutes.
    const short = timeOf(10_000);
    const long = timeOf(200_000);
    t.ok(long < Math.max(short, 20) * 150, `${short} ms, then ${long} ms`);
  });
});

/** Keys are lower-cased and atSigns lose their dots on the way; nothing else may change. */
const plain = (command: unknown): string =>
  JSON.stringify(sorted(command)).toLowerCase().replaceAll(".", "").replaceAll('{"options":{},', "{");

function sorted(value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, member]) => [name, member === "null" ? null : sorted(member)]),
  );
}

const isTyped = (error: unknown): boolean =>
  error instanceof Error &&
  "code" in error &&
  ["COMMAND_INVALID", "SYNTAX_INVALID", "AT_SIGN_INVALID"].includes(String(error.code));
