import { get } from "node:http";
import { join } from "node:path";
import t from "tap";
import { renderMetrics, serveMetrics } from "../../../atplatform/server/metrics.js";
import { loadPlatformConfig } from "../../../cli/platform-config.js";
import { WireWorld } from "../../fixtures/wire-world.js";

t.test("the configuration of a platform", async (t) => {
  const load = async (text: string) => {
    const dir = t.testdir({ "platform.toml": text, "ca.pem": "-----BEGIN CERTIFICATE-----\n" });
    return { dir, config: await loadPlatformConfig(join(dir, "platform.toml")) };
  };

  await t.test("gives what openPlatform takes; file names count from the file's folder", async (t) => {
    const { dir, config } = await load(`
      state = "data"
      host = "edge.example"
      directoryPort = 64
      portRange = "6465-6564"
      certFile = "live/{host}/fullchain.pem"
      keyFile = "live/{host}/privkey.pem"
      caFile = "ca.pem"
      directory = "root.atsign.org"
      metricsPort = 9101
      [limits]
      inboundMax = 500
    `);
    t.match(config, {
      stateDir: join(dir, "data"),
      host: "edge.example",
      directoryPort: 64,
      portRange: { first: 6465, last: 6564 },
      certificate: { certFile: join(dir, "live/{host}/fullchain.pem"), keyFile: join(dir, "live/{host}/privkey.pem") },
      extraCaPem: /BEGIN/u,
      directory: { kind: "directory", host: "root.atsign.org", port: 64 },
      metricsPort: 9101,
      settings: { inboundMax: 500 },
    });
  });

  await t.test("reports every fault with its place, and the nearest known key", async (t) => {
    const faults = await load(`
      hots = "edge.example"
      directoryPort = "64"
      metricsPort = 70000
      [limits]
      inboundmax = 5
    `).catch((error: unknown) => String(error));
    for (const expected of [
      /hots: unknown key, did you mean host\?/u,
      /directoryPort: expected number/u,
      /metricsPort: expected/u,
      /limits\.inboundmax: unknown key, did you mean inboundMax\?/u,
    ]) {
      t.match(faults, expected);
    }
    await t.rejects(load('certFile = "a"'), { code: "CONFIG_INVALID", message: "certFile and keyFile go together" });
    await t.rejects(load("host = "), { code: "CONFIG_INVALID", message: /line 1/u });
    await t.rejects(load('caFile = "nowhere.pem"'), { code: "CONFIG_INVALID", message: /caFile: .*ENOENT/u });
    await t.rejects(loadPlatformConfig("/nowhere.toml"), { code: "CONFIG_INVALID", message: /ENOENT/u });
  });
});

t.test("metrics", async (t) => {
  await using world = await WireWorld.open(t.testdir());
  await world.add("@alice");
  await world.activate("@alice");
  const A = await world.pkam("@alice");
  await A.ask("llookup:nothing.wavi@alice");
  const text = renderMetrics(world.platform);
  t.match(text, /^atedge_platform_connections\{atsign="@alice"\} 1$/mu);
  t.match(text, /^atedge_platform_errors_total\{atsign="@alice"\} 1$/mu);
  t.match(text, /^atedge_platform_last_commit_id\{atsign="@alice"\} 1$/mu);
  for (const line of text.trimEnd().split("\n"))
    t.match(line, /^(?:# (?:HELP|TYPE) \w+ .+|\w+(?:\{[^}]*\})? -?[\d.e+]+)$/u);
  await using metrics = await serveMetrics(world.platform, 0);
  const fetched = (path: string): Promise<{ status: number | undefined; body: string }> =>
    new Promise((resolve, reject) => {
      get({ host: "127.0.0.1", port: metrics.port, path }, (response) => {
        let body = "";
        response.setEncoding("utf8").on("data", (part: string) => (body += part));
        response.on("end", () => resolve({ status: response.statusCode, body }));
      }).on("error", reject);
    });
  const { status, body } = await fetched("/metrics");
  t.equal(status, 200);
  t.match(body, /^process_resident_memory_bytes \d+$/mu);
  t.equal((await fetched("/")).status, 404);
});
