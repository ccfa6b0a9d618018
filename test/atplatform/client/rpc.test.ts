import fc from "fast-check";
import t from "tap";
import { openRpcClient } from "../../../atplatform/client/rpc-client.js";
import {
  formatRpc,
  parseRpcAnswer,
  parseRpcKey,
  parseRpcRequest,
  rpcKey,
  rpcRegex,
} from "../../../atplatform/client/rpc-messages.js";
import { type RpcCall, serveRpc } from "../../../atplatform/client/rpc-server.js";
import { parseAtSign } from "../../../atplatform/protocol/at-sign.js";
import { EdgeError } from "../../../core/errors.js";
import { TestPlatform } from "../../fixtures/at-platform.js";

const never = new AbortController().signal;
const [alice, bob] = [parseAtSign("@alice"), parseAtSign("@bob")];
const math = { baseNamespace: "demo", domain: "math" };

t.test("messages of AtRpc", async (t) => {
  t.test("have the keys that Dart gives them", async (t) => {
    t.equal(rpcKey("request", 1729771200000001, math), "request.1729771200000001.math.__rpcs.demo");
    t.same(parseRpcKey("success.17.math.__rpcs.demo", math), { type: "success", reqId: 17 });
    for (const other of [
      "request.17.maths.__rpcs.demo",
      "request.x.math.__rpcs.demo",
      "request.99999999999999999.math.__rpcs.demo",
    ]) {
      t.equal(parseRpcKey(other, math), undefined, other);
    }
    const regex = new RegExp(rpcRegex("request", { ...math, baseNamespace: "north.demo" }), "u");
    t.match("@bob:request.17.math.__rpcs.north.demo@alice", regex);
    t.notMatch("@bob:request.17.math.__rpcs.northxdemo@alice", regex, "its dots are dots");
  });

  t.test("are read back, and nothing else is", async (t) => {
    const request = { reqId: 7, payload: { a: [1, null, "x"] } };
    t.same(parseRpcRequest(formatRpc(request)), request);
    const answer = { reqId: 7, respType: "nack", payload: {}, message: "no" } as const;
    t.same(parseRpcAnswer(formatRpc(answer)), answer);
    t.same(parseRpcAnswer('{"reqId":7,"respType":"ack","payload":{}}').message, null, "message may be absent");
    for (const bad of [
      "",
      "[]",
      '{"reqId":7}',
      '{"reqId":7.5,"payload":{}}',
      '{"reqId":"7","payload":{}}',
      '{"reqId":7,"payload":[]}',
    ]) {
      t.throws(() => parseRpcRequest(bad), { code: "SYNTAX_INVALID" }, bad);
    }
    t.throws(() => parseRpcAnswer('{"reqId":7,"respType":"maybe","payload":{}}'), { code: "SYNTAX_INVALID" });
    fc.assert(
      fc.property(fc.oneof(fc.json(), fc.string()), (text) => {
        try {
          parseRpcAnswer(text);
          return false;
        } catch (error) {
          return error instanceof EdgeError;
        }
      }),
    );
  });
});

t.test("RPC between two atSigns", async (t) => {
  await using platform = await TestPlatform.open(t.testdir());
  await using caller = await platform.client("@alice");
  await using server = await platform.client("@bob");
  const stop = new AbortController();
  const calls: RpcCall[] = [];
  let isLive = (): void => undefined;
  const live = new Promise<void>((resolve) => (isLive = resolve));
  const serving = serveRpc(
    {
      client: server,
      ...math,
      allow: (from) => from === alice,
      onLive: () => isLive(),
      async handle(call) {
        calls.push(call);
        const { op, a, b } = call.payload;
        if (op === "add") return { success: { sum: Number(a) + Number(b) } };
        if (op === "fail") return { error: { why: "because" }, message: "it failed" };
        if (op === "hang") await new Promise(() => undefined);
        throw new Error("secret detail");
      },
    },
    stop.signal,
  );
  await live;

  await t.test("answers, many at once, each with its own", async (t) => {
    await using rpc = await openRpcClient({ client: caller, server: bob, ...math }, never);
    const sums = await Promise.all([1, 2, 3, 4].map((a) => rpc.call({ op: "add", a, b: 10 }, {}, never)));
    t.same(sums, [{ sum: 11 }, { sum: 12 }, { sum: 13 }, { sum: 14 }]);
    await t.rejects(rpc.call({ op: "fail" }, {}, never), {
      code: "RPC_FAILED",
      answer: "error",
      message: "it failed",
      payload: { why: "because" },
    });
    await t.rejects(rpc.call({ op: "what" }, {}, never), {
      code: "RPC_FAILED",
      answer: "nack",
      message: "the request failed",
    });
    await t.rejects(rpc.call({ op: "hang" }, { timeoutMs: 300 }, never), {
      code: "TIMED_OUT",
      message: /answer of @bob/u,
    });
  });

  await t.test("carries out no request twice, and answers it again", async (t) => {
    calls.length = 0;
    const reqId = 1729771200000001;
    const key = rpcKey("request", reqId, math);
    const value = formatRpc({ reqId, payload: { op: "add", a: 1, b: 2 } });
    const answers = caller.subscribe({ regex: rpcRegex("success", math), since: "stored" }, never);
    for (let round = 0; round < 2; round += 1) {
      await caller.notify({ to: bob, key, value, ttlnMs: 10_000 }, never);
      for (;;) {
        const next = await answers.next();
        if (next.done) throw new Error("it has ended");
        if (next.value.key !== rpcKey("success", reqId, math)) continue;
        t.same(parseRpcAnswer((await next.value.decrypt(never)).text).payload, { sum: 3 });
        break;
      }
    }
    t.equal(calls.length, 1);
    await answers.return();
  });

  await t.test("refuses a request that says another id than its key, or nothing that can be read", async (t) => {
    const answers = caller.subscribe({ regex: rpcRegex("nack", math), since: "stored" }, never);
    const messages = new Map([
      [41, "reqId differs from that of the key"],
      [42, "the request cannot be read"],
    ]);
    await caller.notify(
      { to: bob, key: rpcKey("request", 41, math), value: formatRpc({ reqId: 40, payload: {} }), ttlnMs: 10_000 },
      never,
    );
    await caller.notify({ to: bob, key: rpcKey("request", 42, math), value: "no JSON", ttlnMs: 10_000 }, never);
    while (messages.size > 0) {
      const next = await answers.next();
      if (next.done) throw new Error("it has ended");
      const { reqId, message } = parseRpcAnswer((await next.value.decrypt(never)).text);
      if (messages.has(reqId)) t.equal(message, messages.get(reqId));
      messages.delete(reqId);
    }
    await answers.return();
  });

  await t.test("gives up early on a device that is away or does not know the caller (trap 32)", async (t) => {
    await using back = await openRpcClient({ client: server, server: alice, ...math, ackTimeoutMs: 200 }, never);
    await t.rejects(back.call({ op: "add" }, {}, never), { code: "TIMED_OUT", message: /acknowledgement of @alice/u });
    t.equal(calls.length, 1, "nothing was carried out");
  });

  stop.abort();
  await serving;
});
