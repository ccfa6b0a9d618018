import { serveMetricsPage } from "../../core/metrics-page.js";
import type { Disposable } from "../../core/scope.js";
import type { AtServer } from "./at-server.js";
import type { Platform } from "./platform.js";

interface Metric {
  readonly name: string;
  readonly help: string;
  readonly type: "counter" | "gauge";
  readonly of: (server: AtServer) => number;
}

/** A figure each atSign. */
const METRICS: readonly Metric[] = [
  gauge("connections", "open inbound connections", ({ connections }) => connections),
  gauge("monitors", "connections that get notifications", ({ services }) => services.monitors.size),
  gauge("peer_connections", "open connections to other atServers", ({ services }) => services.peers.size),
  gauge("destinations_waiting", "atSigns that notifications wait for", ({ services }) => services.delivery.busy),
  gauge("records", "records kept", ({ services }) => services.keys.size),
  gauge("last_commit_id", "id of the last change", ({ services }) => services.keys.lastCommitId),
  gauge("storage_bytes", "size of the database file", ({ services }) => services.storageBytes()),
  gauge("store_failed", "1 when the disk has failed the store", ({ services }) =>
    services.commits.health.state === "failed" ? 1 : 0,
  ),
  counter("commands_total", "commands received", ({ counters }) => counters.commands),
  counter("errors_total", "commands answered with an error", ({ counters }) => counters.errors),
  counter("connections_total", "connections accepted", ({ counters }) => counters.connections),
  counter("connections_refused_total", "connections over the limit", ({ counters }) => counters.refused),
  counter("disk_syncs_total", "times the store was made durable", ({ services }) => services.commits.health.syncs),
];

function gauge(name: string, help: string, of: Metric["of"]): Metric {
  return { name: `atedge_platform_${name}`, help, type: "gauge", of };
}

function counter(name: string, help: string, of: Metric["of"]): Metric {
  return { name: `atedge_platform_${name}`, help, type: "counter", of };
}

/** Prometheus' text format, version 0.0.4. */
export function renderMetrics({ servers, directory }: Pick<Platform, "servers" | "directory">): string {
  const lines = METRICS.flatMap(({ name, help, type, of }) => [
    `# HELP ${name} ${help}`,
    `# TYPE ${name} ${type}`,
    ...servers.map((server) => `${name}{atsign="${escapeLabel(server.atSign)}"} ${of(server)}`),
  ]);
  const { lookups, misses, refused } = directory?.counters ?? { lookups: 0, misses: 0, refused: 0 };
  const counters = {
    directory_lookups_total: lookups,
    directory_misses_total: misses,
    directory_refused_total: refused,
  };
  for (const [name, value] of Object.entries(counters)) {
    lines.push(`# TYPE atedge_platform_${name} counter`, `atedge_platform_${name} ${value}`);
  }
  lines.push(
    "# TYPE process_resident_memory_bytes gauge",
    `process_resident_memory_bytes ${process.memoryUsage.rss()}`,
  );
  return `${lines.join("\n")}\n`;
}

const escapeLabel = (text: string): string => text.replaceAll(/[\\"]/gu, (character) => `\\${character}`);

/** Serves `/metrics` on loopback. @throws a Node system error when the port is in use. */
export const serveMetrics = (platform: Platform, port: number): Promise<Disposable & { readonly port: number }> =>
  serveMetricsPage(() => renderMetrics(platform), port);
