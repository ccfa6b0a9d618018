import { serveMetricsPage } from "../../core/metrics-page.js";
import type { Disposable } from "../../core/scope.js";
import type { AgentHealth, HealthBoard } from "./health.js";

const STATES = ["ok", "degraded", "failed"] as const;

/** The health in Prometheus' text format, version 0.0.4. */
export function renderMetrics({ state, parts }: AgentHealth): string {
  const lines = [
    "# HELP atedge_state 1 for the state that the agent is in, the worst of its parts.",
    "# TYPE atedge_state gauge",
    ...STATES.map((one) => `atedge_state{state="${one}"} ${Number(one === state)}`),
    "# HELP atedge_part_state 1 for the state that the part is in.",
    "# TYPE atedge_part_state gauge",
    ...parts.flatMap((part) =>
      STATES.map(
        (one) => `atedge_part_state{part="${escapeLabel(part.name)}",state="${one}"} ${Number(one === part.state)}`,
      ),
    ),
    "# HELP atedge_part_state_since_seconds When the part's state was first seen, seconds since 1970.",
    "# TYPE atedge_part_state_since_seconds gauge",
    ...parts.map(
      ({ name, sinceMs }) => `atedge_part_state_since_seconds{part="${escapeLabel(name)}"} ${sinceMs / 1000}`,
    ),
    "# HELP atedge_part_value What the part counts since the start, and what it holds.",
    "# TYPE atedge_part_value untyped",
    ...parts.flatMap(({ name, counters = {} }) =>
      Object.entries(counters).map(
        ([of, value]) => `atedge_part_value{part="${escapeLabel(name)}",name="${escapeLabel(of)}"} ${value}`,
      ),
    ),
    "# TYPE process_resident_memory_bytes gauge",
    `process_resident_memory_bytes ${process.memoryUsage.rss()}`,
  ];
  return `${lines.join("\n")}\n`;
}

const escapeLabel = (text: string): string =>
  text.replaceAll(/[\\"\n]/gu, (character) => (character === "\n" ? "\\n" : `\\${character}`));

/** Serves `/metrics` on 127.0.0.1 alone. @throws a Node system error when the port is in use. */
export const serveMetrics = (
  health: Pick<HealthBoard, "snapshot">,
  port: number,
): Promise<Disposable & { readonly port: number }> => serveMetricsPage(() => renderMetrics(health.snapshot()), port);
