import { isDeepStrictEqual } from "node:util";
import fc from "fast-check";
import t from "tap";
import { parseAtSign } from "../../../atplatform/protocol/at-sign.js";
import {
  dateText,
  metadataJson,
  metadataStrings,
  parseDateText,
  parseMetadata,
} from "../../../atplatform/protocol/metadata.js";
import {
  formatNotification,
  notificationJson,
  parseNotification,
  statsNotification,
  type Notification,
} from "../../../atplatform/protocol/notification.js";
import { formatRecord, parseRecord } from "../../../atplatform/protocol/record.js";
import { ResponseFramer } from "../../../atplatform/protocol/response-framer.js";
import { formatBatchResults, parseBatchResults } from "../../../atplatform/protocol/verbs/batch.js";
import { formatStats, parseStats } from "../../../atplatform/protocol/verbs/stats.js";
import { formatSyncEntry, parseSyncEntries } from "../../../atplatform/protocol/verbs/sync-from.js";
import { utf8 } from "../../../core/bytes.js";
import { vectors } from "../../fixtures/vectors.js";

const alice = parseAtSign("@alice");
const bob = parseAtSign("@bob");
const millis = fc.integer({ min: 0, max: Date.UTC(9999, 11, 31) });
const text = fc.string({ unit: "grapheme" }).filter((value) => value !== "null");

t.test("dates", async (t) => {
  t.equal(dateText(Date.UTC(2024, 4, 1, 10, 11, 12, 345)), "2024-05-01 10:11:12.345Z");
  t.equal(dateText(Number.MAX_SAFE_INTEGER), "9999-12-31 23:59:59.999Z");
  const same = Date.UTC(2024, 4, 1, 10, 11, 12, 345);
  for (const form of ["2024-05-01 10:11:12.345Z", "2024-05-01T10:11:12.345678Z", "2024-05-01 10:11:12.345"]) {
    t.equal(parseDateText(form), same, form);
  }
  t.equal(parseDateText("2024-05-01 10:11:12Z"), same - 345);
  for (const form of ["", "null", "2024-05-01", "2024-13-01 10:11:12.345Z", "yesterday"]) {
    t.equal(parseDateText(form), undefined, form);
  }
  fc.assert(fc.property(millis, (epochMs) => parseDateText(dateText(epochMs)) === epochMs));
});

const metadata = fc.record(
  {
    ...{ createdBy: text, updatedBy: text, createdAtMs: millis, updatedAtMs: millis, availableAtMs: millis },
    ...{
      expiresAtMs: millis,
      refreshAtMs: millis,
      status: fc.constant("active"),
      version: fc.nat(),
      ttlMs: fc.integer(),
    },
    ...{ ttbMs: fc.nat(), ttrSeconds: fc.integer({ min: -1 }), ccd: fc.boolean(), isBinary: fc.boolean() },
    ...{ isEncrypted: fc.boolean(), dataSignature: text, sharedKeyEnc: text, pubKeyCS: text, encoding: text },
    ...{ encKeyName: text, encAlgo: text, ivNonce: text, skeEncKeyName: text, skeEncAlgo: text },
  },
  { requiredKeys: [] },
);

t.test("metadata", async (t) => {
  const example = {
    ...{ isEncrypted: true, isBinary: false, ttrSeconds: -1, ttlMs: 60_000, version: 0, status: "active" },
    ...{ updatedAtMs: 5, createdAtMs: 0, updatedBy: "@alice", createdBy: "@alice", ivNonce: "ab==" },
  };
  t.test("is shown in the order of the reference, absent members left out", async (t) => {
    t.equal(
      JSON.stringify(metadataJson(example)),
      '{"createdBy":"@alice","updatedBy":"@alice","createdAt":"1970-01-01 00:00:00.000Z",' +
        '"updatedAt":"1970-01-01 00:00:00.005Z","status":"active","version":0,"ttl":60000,"ttr":-1,' +
        '"isBinary":false,"isEncrypted":true,"ivNonce":"ab=="}',
    );
    t.match(metadataStrings(example), {
      version: "0",
      ttl: "60000",
      ttr: "-1",
      isBinary: "false",
      isEncrypted: "true",
    });
  });

  t.test("shows nothing that is not in the list: Java clients fail on it", async (t) => {
    t.same(metadataJson({ ...example, hash: "x", pubKeyHash: "y" } as object), metadataJson(example));
  });

  t.test("reads both forms back", async () => {
    fc.assert(
      fc.property(metadata, (given) => {
        const plain: unknown = JSON.parse(JSON.stringify(given));
        return (
          isDeepStrictEqual(parseMetadata(metadataJson(given)), plain) &&
          isDeepStrictEqual(parseMetadata(metadataStrings(given)), plain)
        );
      }),
    );
  });

  t.test("makes do with what servers of other make send", async (t) => {
    t.same(
      parseMetadata({
        ttl: null,
        ttr: "null",
        ivNonce: "null",
        ccd: "maybe",
        version: 1.5,
        createdAt: 7,
        new: {},
        ttb: 0,
      }),
      { ttbMs: 0 },
    );
    t.throws(() => parseMetadata([]), { code: "SYNTAX_INVALID" });
    t.throws(() => parseMetadata(null), { code: "SYNTAX_INVALID" });
  });
});

t.test("a record", async (t) => {
  t.equal(
    formatRecord({ key: "@bob:phone@alice", value: "zq3", metadata: { version: 0 } }),
    '{"key":"@bob:phone@alice","data":"zq3","metaData":{"version":0}}',
  );
  fc.assert(
    fc.property(fc.record({ key: text, value: fc.option(text), metadata }), (record) =>
      isDeepStrictEqual(parseRecord(formatRecord(record)), JSON.parse(JSON.stringify(record))),
    ),
  );
  t.same(parseRecord('{"key":"x@alice","data":null}'), { key: "x@alice", value: null, metadata: {} });
  for (const bad of ["", "null", "[]", "{}", '{"key":5}', '{"key":"x","metaData":[]}']) {
    t.throws(() => parseRecord(bad), { code: "SYNTAX_INVALID" }, bad);
  }
});

t.test("replies of sync, stats and batch", async (t) => {
  const entry = fc.record({
    ...{ key: text, value: fc.option(text), metadata: fc.option(metadata) },
    ...{ commitId: fc.nat(), operation: fc.constantFrom("*" as const, "+" as const, "#" as const, "-" as const) },
  });
  fc.assert(
    fc.property(fc.array(entry, { maxLength: 4 }), (entries) =>
      isDeepStrictEqual(
        parseSyncEntries(`[${entries.map(formatSyncEntry).join(",")}]`),
        JSON.parse(JSON.stringify(entries)),
      ),
    ),
  );
  t.equal(
    formatSyncEntry({ key: "phone@alice", value: null, metadata: null, commitId: 8, operation: "-" }),
    '{"atKey":"phone@alice","value":null,"metadata":null,"commitId":8,"operation":"-"}',
  );
  for (const bad of ["", "{}", "[1]", '[{"atKey":"a"}]', '[{"atKey":"a","commitId":1,"operation":"?"}]']) {
    t.throws(() => parseSyncEntries(bad), { code: "SYNTAX_INVALID" }, bad);
  }

  const stats = [
    { id: 3, name: "lastCommitID", value: "12" },
    { id: 4, name: "secondaryStorageSize", value: 512 },
  ];
  t.equal(
    formatStats(stats),
    '[{"id":"3","name":"lastCommitID","value":"12"}, {"id":"4","name":"secondaryStorageSize","value":512}]',
  );
  t.same(parseStats(` ${formatStats(stats)}`), stats);
  t.throws(() => parseStats('[{"id":"x"}]'), { code: "SYNTAX_INVALID" });

  const results = [
    { id: 1, data: "12" },
    { id: 2, errorCode: "AT0003", message: "Invalid syntax" },
    { id: 3, data: null },
  ];
  t.equal(
    formatBatchResults(results),
    '[{"id":1,"response":{"data":"12"}},{"id":2,"response":{"error_code":"AT0003","error_message":"Invalid syntax"}},' +
      '{"id":3,"response":{"data":null}}]',
  );
  t.same(parseBatchResults(formatBatchResults(results)), results);
  t.throws(() => parseBatchResults('[{"id":1}]'), { code: "SYNTAX_INVALID" });
});

t.test("notifications", async (t) => {
  const notification: fc.Arbitrary<Notification> = fc.record({
    ...{ id: text, from: fc.constantFrom(alice, bob), to: fc.constantFrom(alice, bob), key: text },
    ...{
      value: fc.option(text),
      operation: fc.constantFrom("update" as const, "delete" as const),
      epochMillis: millis,
    },
    ...{ messageType: fc.constantFrom("key" as const, "text" as const), isEncrypted: fc.boolean() },
    metadata: fc.option(
      fc.record(
        {
          ...{
            encKeyName: text,
            encAlgo: text,
            ivNonce: text,
            skeEncKeyName: text,
            skeEncAlgo: text,
            sharedKeyEnc: text,
          },
          ...{ availableAtMs: millis, expiresAtMs: millis },
        },
        { requiredKeys: [] },
      ),
    ),
  });

  t.test("come back from the line as they were sent", async () => {
    fc.assert(
      fc.property(notification, (given) => {
        const framer = new ResponseFramer({ maxBytes: 100_000, mode: "monitor" });
        const [frame, ...others] = framer.push(utf8(`${formatNotification(given, "replay")}\n`));
        if (frame?.type !== "notification" || others.length > 0) return false;
        return isDeepStrictEqual(parseNotification(frame.body), JSON.parse(JSON.stringify(given)));
      }),
    );
  });

  t.test("have the members of the reference in its order, nulls included", async (t) => {
    const given: Notification = {
      ...{ id: "q1", from: bob, to: alice, key: "@alice:phone.wavi@bob", value: "zq3", operation: "update" },
      ...{ epochMillis: 1714558272345, messageType: "key", isEncrypted: true },
      metadata: { ivNonce: "abc==", expiresAtMs: 1714558272345 },
    };
    t.equal(
      formatNotification(given, "live"),
      'notification: {"id":"q1","from":"@bob","to":"@alice","key":"@alice:phone.wavi@bob","value":"zq3",' +
        '"operation":"update","epochMillis":1714558272345,"messageType":"MessageType.key","isEncrypted":true,' +
        '"metadata":{"encKeyName":null,"encAlgo":null,"ivNonce":"abc==","skeEncKeyName":null,"skeEncAlgo":null,"sharedKeyEnc":null}}',
    );
    t.match(notificationJson(given, "replay").metadata, { availableAt: "null", expiresAt: "2024-05-01 10:11:12.345Z" });
    t.equal(
      formatNotification(statsNotification(alice, 12, 1714558272345, "update"), "live"),
      'notification: {"id":"-1","from":"@alice","to":"@alice","key":"statsNotification.@alice","value":"12",' +
        '"operation":"update","epochMillis":1714558272345,"messageType":"MessageType.key","isEncrypted":false,"metadata":null}',
    );
  });

  interface NotificationVectors {
    readonly notifications: readonly {
      readonly name: string;
      readonly line: string;
      readonly expect: {
        readonly from?: string;
        readonly key?: string;
        readonly stats?: number;
        readonly operation?: string;
      };
    }[];
  }

  t.test("of the vectors are framed, read, and written again to the same bytes where ours are the same", async (t) => {
    const { notifications } = vectors<NotificationVectors>("notifications.json");
    for (const { name, line, expect } of notifications) {
      const framer = new ResponseFramer({ maxBytes: 10_000, mode: "monitor" });
      const frames = framer.push(utf8(`@bob@${line}`));
      t.equal(frames.length, 1, name);
      const [frame] = frames;
      if (frame?.type !== "notification") return t.fail(`${name}: no notification`);
      const read = parseNotification(frame.body);
      if (expect.from !== undefined) t.equal(read.from, expect.from, name);
      if (expect.key !== undefined) t.equal(read.key, `@bob:${expect.key}@alice`, name);
      if (expect.stats !== undefined) t.match(read, { id: "-1", value: String(expect.stats) }, name);
      t.equal(read.operation, expect.operation ?? "update", name);
      const others = [
        "replayed after monitor:<epoch>: no sharedKeyEnc, extra members",
        "no metadata member at all",
        "ivNonce as the text null",
      ];
      if (!others.includes(name)) t.equal(`${formatNotification(read, "live")}\n`, line, name);
    }
    const [replayed, bare, nullText] = [2, 3, 4].map((index) => {
      const line = notifications[index]?.line ?? "";
      return parseNotification(line.slice("notification: ".length));
    });
    t.same(replayed?.metadata, {
      ivNonce: "ug85o32G3TKl6460m2LyZw==",
      availableAtMs: Date.UTC(2024, 9, 24, 12, 0, 0, 123),
    });
    t.equal(bare?.metadata, null);
    t.same(nullText?.metadata, {});
  });

  t.test("that lack what is needed are refused with a typed error", async (t) => {
    const good = notificationJson(statsNotification(alice, 1, 2, "update"), "live");
    for (const name of ["id", "from", "to", "key", "operation", "epochMillis"]) {
      t.throws(() => parseNotification(JSON.stringify({ ...good, [name]: {} })), {
        message: `notification.${name}: missing, or of an unexpected kind`,
      });
    }
    t.throws(() => parseNotification(JSON.stringify({ ...good, from: "a@b" })), { code: "AT_SIGN_INVALID" });
    t.throws(() => parseNotification(JSON.stringify({ ...good, metadata: [] })), { code: "SYNTAX_INVALID" });
    for (const bad of ["", "{", "[]", "null", "[".repeat(100_000)])
      t.throws(() => parseNotification(bad), { code: "SYNTAX_INVALID" });
    t.match(parseNotification(JSON.stringify({ ...good, isEncrypted: undefined, messageType: "text" })), {
      ...{ isEncrypted: true, messageType: "text" },
    });
  });

  t.test("garbage meets typed errors only", async () => {
    fc.assert(
      fc.property(
        fc.json(),
        fc.constantFrom(parseNotification, parseRecord, parseSyncEntries, parseStats, parseBatchResults),
        (json, parse) => {
          try {
            parse(json);
            return true;
          } catch (error) {
            return (
              error instanceof Error &&
              "code" in error &&
              ["SYNTAX_INVALID", "AT_SIGN_INVALID"].includes(String(error.code))
            );
          }
        },
      ),
    );
  });
});
