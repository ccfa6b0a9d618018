import { networkInterfaces } from "node:os";
import t from "tap";
import { HealthBoard } from "../../../agent/health/health.js";
import { renderMetrics, serveMetrics } from "../../../agent/health/metrics.js";
import { ManualClock } from "../../fixtures/manual-clock.js";

t.test("metrics", async (t) => {
  const clock = new ManualClock(1_700_000_000_500);
  const board = new HealthBoard(clock);
  board.add(() => [
    { name: "store", state: "ok", counters: { accepted: 3, usedBytes: 4096 } },
    { name: 'reader.@"\\\n', state: "degraded", code: "CONNECT_FAILED" },
  ]);

  t.test("tell the state, since when, and what each part counts", async (t) => {
    const text = renderMetrics(board.snapshot());
    t.match(text, /^atedge_state\{state="degraded"\} 1$/m);
    t.match(text, /^atedge_state\{state="ok"\} 0$/m);
    t.match(text, /^atedge_part_state\{part="store",state="ok"\} 1$/m);
    t.match(text, /^atedge_part_state_since_seconds\{part="store"\} 1700000000\.5$/m);
    t.match(text, /^atedge_part_value\{part="store",name="usedBytes"\} 4096$/m);
    t.match(text, 'part="reader.@\\"\\\\\\n"', "a name cannot break a line");
  });

  t.test("have on every line a comment or one value, as Prometheus reads it", async (t) => {
    for (const line of renderMetrics(board.snapshot()).trimEnd().split("\n"))
      t.match(line, /^(?:# (?:HELP|TYPE) \w+ .+|\w+(?:\{(?:\w+="(?:[^"\\\n]|\\[\\"n])*",?)+\})? [0-9.]+)$/u);
  });

  t.test("are served on loopback and nowhere else, and only there by their path", async (t) => {
    const served = await serveMetrics(board, 0);
    t.teardown(() => served[Symbol.asyncDispose]());
    const response = await fetch(`http://127.0.0.1:${served.port}/metrics`);
    t.equal(response.status, 200);
    t.match(response.headers.get("content-type"), /version=0\.0\.4/);
    t.match(await response.text(), "atedge_part_state");
    t.equal((await fetch(`http://127.0.0.1:${served.port}/`)).status, 404);
    t.equal((await fetch(`http://127.0.0.1:${served.port}/metrics`, { method: "POST" })).status, 404);
    const others = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
    for (const { address } of others.filter(({ internal, family }) => !internal && family === "IPv4"))
      await t.rejects(fetch(`http://${address}:${served.port}/metrics`, { signal: AbortSignal.timeout(2000) }));
    await t.rejects(serveMetrics(board, served.port), { code: "EADDRINUSE" });
  });
});
