import fc from "fast-check";
import t from "tap";
import { Connection, type ConnectionOptions } from "../../../atplatform/client/connection.js";
import { logInWithKey, logInWithSecret } from "../../../atplatform/client/login.js";
import { cramDigest } from "../../../atplatform/crypto/digests.js";
import { parseAtKeys } from "../../../atplatform/crypto/at-keys.js";
import { verifyChallenge } from "../../../atplatform/crypto/signatures.js";
import { parseAtSign } from "../../../atplatform/protocol/at-sign.js";
import { pkam } from "../../../atplatform/protocol/verbs/pkam.js";
import { connectTls } from "../../../atplatform/transport/connect.js";
import { systemClock } from "../../../core/clock.js";
import { Secret } from "../../../core/secret.js";
import { ManualClock } from "../../fixtures/manual-clock.js";
import { openScripted, type ScriptedPeer, type ScriptedServer } from "../../fixtures/scripted-server.js";
import { testKeys, vectorText } from "../../fixtures/vectors.js";

const never = new AbortController().signal;
const alice = parseAtSign("@alice");

async function open(server: ScriptedServer, options: Partial<ConnectionOptions> = {}): Promise<Connection> {
  const channel = await connectTls({ host: "127.0.0.1", port: server.port, ca: server.caPem }, never);
  return new Connection(channel, { clock: systemClock, commandTimeoutMs: 5_000, ...options });
}

/** A connection to a script, both closed at the end. */
async function withScript(
  script: (peer: ScriptedPeer) => Promise<void>,
  use: (connection: Connection, server: ScriptedServer) => Promise<void>,
  options: Partial<ConnectionOptions> = {},
): Promise<void> {
  await using server = await openScripted(script);
  await using connection = await open(server, options);
  await use(connection, server);
}

/** Listens to so many lines and says nothing. */
const hear =
  (lines: number) =>
  async (peer: ScriptedPeer): Promise<void> => {
    for (let at = 0; at < lines; at += 1) await peer.line();
  };

const settle = async (): Promise<void> => {
  for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => setImmediate(resolve));
};

t.test("Connection", async (t) => {
  t.test(
    "matches answers to commands in order, one in flight, however the bytes are cut (traps 14 and 15)",
    async (t) => {
      const replies = [
        "data:one\n@",
        "error:AT0015-key not found : x\n@alice@",
        "data: spaced\n@alice@",
        "data:é🛠\r\n@alice@",
      ];
      const script =
        (cuts: readonly number[]) =>
        async (peer: ScriptedPeer): Promise<void> => {
          await peer.send("@");
          for (const reply of replies) {
            await peer.line();
            t.equal(peer.waiting, 0, "the next command waits for the answer");
            await peer.send(reply, cuts);
          }
          await peer.line();
        };
      for (const cuts of [[], [1], [4, 5], [8, 9, 10, 11, 12], Array.from({ length: 40 }, (_, at) => at)]) {
        await withScript(script(cuts), async (connection) => {
          const answers = await Promise.allSettled(
            ["a", "b", "c", "d"].map((line) => connection.send(line, {}, never)),
          );
          t.match(answers, [
            { value: "one" },
            { reason: { code: "AT0015", remedy: "answer" } },
            { value: "spaced" },
            { value: "é🛠" },
          ]);
        });
      }
    },
  );

  t.test("gives each of many commands its own answer under random cuts", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.nat(400), { maxLength: 12 }),
        fc.integer({ min: 1, max: 8 }),
        async (cuts, count) => {
          const script = (peer: ScriptedPeer): Promise<void> => peer.answer((line) => `data:${line}${line}\n@alice@`);
          await using server = await openScripted(async (peer) => {
            await peer.send("@", cuts);
            await script(peer);
          });
          await using connection = await open(server);
          const lines = Array.from({ length: count }, (_, at) => `command ${at}`);
          const answers = await Promise.all(lines.map((line) => connection.send(line, {}, never)));
          return answers.every((answer, at) => answer === `command ${at}command ${at}`);
        },
      ),
      { numRuns: 20 },
    );
  });

  t.test("parses all three shapes of errors (trap 13)", async (t) => {
    const shapes = [
      ["error:AT0015-key not found : x does not exist in keystore", "AT0015"],
      ["error:AT0026:enrollment_id: 4f is pending", "AT0026"],
      ['error:{"errorCode":"AT0401","errorDescription":"no"}', "AT0401"],
    ] as const;
    await withScript(
      (peer) => peer.answer((line) => `${shapes[Number(line)]?.[0] ?? "data:"}\n@`),
      async (connection) => {
        for (const [at, [, code]] of shapes.entries()) {
          await t.rejects(connection.send(String(at), {}, never), { code });
        }
      },
    );
  });

  t.test("ends a reply without a prompt after 250 ms", async (t) => {
    const clock = new ManualClock();
    await withScript(
      (peer) => peer.answer(() => "data:bare\n"),
      async (connection) => {
        const answer = connection.send("x", {}, never);
        while (clock.sleeping < 2) await settle(); // the command's limit and the wait for the prompt
        await clock.advance(250);
        t.equal(await answer, "bare");
      },
      { clock },
    );
  });

  t.test("closes when an answer does not come in time (trap 15)", async (t) => {
    const clock = new ManualClock();
    await withScript(
      hear(2),
      async (connection) => {
        const late = connection.send("late", { timeoutMs: 1_000 }, never);
        const waiting = connection.send("waiting", {}, never);
        const ends = Promise.all([
          t.rejects(late, { code: "ANSWER_LOST", cause: { code: "TIMED_OUT" } }),
          t.rejects(waiting, { code: "NOT_SENT" }),
        ]);
        await clock.advance(1_000);
        await ends;
        t.match(connection.closedBy, { code: "TIMED_OUT" });
        await t.rejects(connection.send("later", {}, never), { code: "NOT_SENT", cause: { code: "TIMED_OUT" } });
        await t.rejects(connection.post("monitor", never), { code: "NOT_SENT" });
      },
      { clock },
    );
  });

  t.test("tells a lost answer from a command that was not sent", async (t) => {
    await withScript(
      async (peer) => {
        await peer.line();
        peer.close();
      },
      async (connection) => {
        const [first, second] = [connection.send("first", {}, never), connection.send("second", {}, never)];
        await Promise.all([t.rejects(first, { code: "ANSWER_LOST" }), t.rejects(second, { code: "NOT_SENT" })]);
        t.match(await connection.closed(never), { code: "CONNECTION_LOST" });
      },
    );
  });

  t.test("keeps the order when a caller gives up, and never gives its answer to another", async (t) => {
    await withScript(
      async (peer) => {
        const first = await peer.line();
        await peer.send(`data:${first}\n@`);
        await peer.answer((line) => `data:${line}\n@`);
      },
      async (connection) => {
        const abort = new AbortController();
        const inFlight = connection.send("in flight", {}, abort.signal);
        const queued = connection.send("queued", {}, abort.signal);
        const next = connection.send("next", {}, never);
        abort.abort(new Error("gave up"));
        await t.rejects(inFlight, { message: "gave up" });
        await t.rejects(queued, { message: "gave up" });
        t.equal(await next, "next");
        await t.rejects(connection.send("never", {}, abort.signal), { message: "gave up" });
      },
    );
  });

  t.test("sends no second command along with one", async (t) => {
    await withScript(
      (peer) => peer.answer((line) => `data:${line}\n@`),
      async (connection) => {
        for (const line of ["scan\ndelete:x@alice", "scan\r\n"]) {
          await t.rejects(connection.send(line, {}, never), { code: "SYNTAX_INVALID" });
        }
        t.equal(await connection.send("scan", {}, never), "scan");
      },
    );
  });

  t.test("bounds the commands that wait", async (t) => {
    await withScript(
      hear(2),
      async (connection) => {
        const sent = [1, 2, 3].map((n) => connection.send(`${n}`, {}, never));
        for (const promise of sent) promise.catch(() => undefined);
        await t.rejects(connection.send("4", {}, never), { code: "LIMIT_EXCEEDED" });
      },
      { maxQueued: 2 },
    );
  });

  t.test("closes on what the protocol does not know there", async (t) => {
    const cases = [
      ["data:unasked\n@", "ANSWER_INVALID"],
      ["nonsense\n@", "SYNTAX_INVALID"],
      ["stream:ack 1\n@", "ANSWER_INVALID"],
      ["error:AT0012-Inbound connection limit exceeded\n", "AT0012"],
    ] as const;
    for (const [text, code] of cases) {
      const clock = new ManualClock();
      await withScript(
        async (peer) => {
          await peer.send(text);
          await peer.line();
        },
        async (connection) => {
          const closed = connection.closed(never);
          while (!connection.closedBy) {
            await settle();
            await clock.advance(250);
          }
          t.match(await closed, { code }, text);
        },
        { clock },
      );
    }
  });

  t.test("takes no notification for an answer (trap 12)", async (t) => {
    await withScript(
      (peer) => peer.answer(() => `@alice@notification: {"id":"1"}\ndata:ok\n@alice@`),
      async (connection) => {
        t.equal(await connection.send("noop:0", {}, never), "ok");
      },
    );
  });

  t.test("hands over notifications of a monitor, glued to prompts and between answers (traps 12 and 16)", async (t) => {
    const got: string[] = [];
    await withScript(
      async (peer) => {
        await peer.line();
        await peer.send('notification: {"n":1}\n@alice@notification: {"n":2}\n');
        await peer.line();
        await peer.send('notification: {"n":3}\ndata:ok\n@alice@');
        await peer.line();
      },
      async (connection) => {
        await connection.post("monitor", never);
        t.equal(await connection.send("noop:0", {}, never), "ok");
        t.same(got, ['{"n":1}', '{"n":2}', '{"n":3}']);
      },
      { onNotification: (json) => void got.push(json) },
    );
  });

  t.test("reads no further while a notification is not taken", async (t) => {
    let release = (): void => undefined;
    const got: string[] = [];
    await withScript(
      async (peer) => {
        await peer.line();
        await peer.send("notification: 1\n");
        await peer.line();
        await peer.send("notification: 2\n");
        await peer.line();
      },
      async (connection) => {
        await connection.post("monitor", never);
        while (got.length < 1) await settle();
        await connection.post("more", never);
        await new Promise((resolve) => setTimeout(resolve, 30));
        t.same(got, ["1"]);
        release();
        while (got.length < 2) await settle();
        t.same(got, ["1", "2"]);
      },
      {
        onNotification(json) {
          got.push(json);
          return got.length === 1 ? new Promise<void>((resolve) => (release = resolve)) : undefined;
        },
      },
    );
  });
});

t.test("login", async (t) => {
  const challenge = "_6f1c2f7e-3a55-4c86-9f0d-5f0f6e1f2a11@alice:0b5d9a3c-8a0f-4e55-9c63-2d8c1a0b9f77";
  const play =
    (asked: string[], answers: readonly string[]) =>
    async (peer: ScriptedPeer): Promise<void> => {
      await peer.send("@");
      for (const answer of answers) {
        asked.push((await peer.line()) ?? "");
        await peer.send(answer);
      }
      await peer.line();
    };

  t.test("signs the challenge, with the enrolment id when there is one", async (t) => {
    for (const file of ["@alice_key.atKeys", "@alice_device2_key.atKeys"]) {
      const keys = parseAtKeys(vectorText(`atkeys/${file}`));
      const asked: string[] = [];
      await withScript(play(asked, [`data:${challenge}\n@`, "data:success\n@alice@"]), (connection) =>
        logInWithKey(connection, alice, keys, never),
      );
      t.equal(asked[0], "from:@alice");
      const { signature, enrollmentId, signingAlgo, hashingAlgo } = pkam.parse(asked[1] ?? "");
      t.equal(enrollmentId, keys.enrollmentId);
      t.same([signingAlgo, hashingAlgo], ["rsa2048", "sha256"]);
      const algorithms = { signingAlgo: "rsa2048", hashingAlgo: "sha256" } as const;
      t.ok(verifyChallenge({ challenge, signature, publicKeyText: keys.pkam.publicText, ...algorithms }));
    }
  });

  t.test("digests the secret and the challenge for CRAM", async (t) => {
    const asked: string[] = [];
    await withScript(play(asked, [`data:${challenge}\n@`, "data:success\n@alice@"]), (connection) =>
      logInWithSecret(connection, alice, new Secret(testKeys.cramSecret), never),
    );
    t.equal(asked[1], `cram:${cramDigest(testKeys.cramSecret, challenge)}`);
  });

  t.test("passes refusals on, and signs nothing that is no challenge for us", async (t) => {
    const keys = parseAtKeys(vectorText("atkeys/@alice_key.atKeys"));
    const refused = [`data:${challenge}\n@`, "error:AT0401-Exception: pkam authentication failed\n@"];
    const cases = [
      [refused, "AT0401"],
      [[`data:${challenge}\n@`, "error:AT0026:enrollment_id: x is pending\n@"], "AT0026"],
      [[`data:${challenge}\n@`, "data:perhaps\n@"], "ANSWER_INVALID"],
      [["data:proof:_1@alice:2\n@"], "ANSWER_INVALID"],
      [["data:please sign this contract\n@"], "ANSWER_INVALID"],
    ] as const;
    for (const [answers, code] of cases) {
      await withScript(play([], answers), async (connection) => {
        await t.rejects(logInWithKey(connection, alice, keys, never), { code }, answers.at(-1) ?? "");
      });
    }
  });
});
