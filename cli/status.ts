import type { Command } from "commander";
import type { DataUse } from "../agent/budget/data-budget.js";
import type { AgentHealth } from "../agent/health/health.js";

interface StatusOptions {
  readonly config: string;
  readonly json?: boolean;
}

export function register(program: Command): void {
  program
    .command("status")
    .description("how the agent on this machine is: its parts, and the data that it has used this month")
    .option("--config <file>", "the configuration of the agent", "/etc/atedge/atedge.toml")
    .option("--json", "print a JSON object")
    .action(async ({ config, json }: StatusOptions) => {
      const { loadConfig } = await import("../agent/config/load.js");
      const { askAgent } = await import("../agent/local-client.js");
      const { withNextStep } = await import("./next-step.js");
      const { stateDir } = (await loadConfig(config)).config;
      const ask = async (op: string): Promise<unknown> =>
        await askAgent(stateDir, op).catch((error: unknown) => {
          throw withNextStep(
            error,
            "start it with `atedge run`, or look with `systemctl status atedge`; root may ask any",
          );
        });
      const health = (await ask("health")) as AgentHealth;
      const data = (await ask("data")) as DataUse;
      process.stdout.write(`${json ? JSON.stringify({ ...health, data }) : text(health, data).join("\n")}\n`);
      if (health.state === "failed") process.exitCode = 1;
    });
}

/** An agent of another version may leave things out: what is there is printed. */
function text({ state, parts }: AgentHealth, data: DataUse): readonly string[] {
  return [
    `the agent is ${state}`,
    ...parts.map(({ name, state: each, code, sinceMs }) => {
      const since = new Date(sinceMs).toISOString().slice(0, 19);
      return `  ${name.padEnd(24)} ${each.padEnd(9)} since ${since}Z${code === undefined ? "" : `  ${code}`}`;
    }),
    `${data.month}: ${use(data)}`,
  ];
}

function use({ sentBytes, receivedBytes, budgetBytes, plannedBytes, stretch }: DataUse): string {
  const used = `${megabytes(sentBytes)} MB sent, ${megabytes(receivedBytes)} MB received`;
  if (budgetBytes === undefined) return used;
  const planned = plannedBytes === undefined ? "" : `, ${megabytes(plannedBytes)} MB planned until now`;
  const slower =
    stretch > 1 ? `; messages and heartbeats are ${stretch.toFixed(1)} times as far apart as configured` : "";
  return `${used}, of a budget of ${megabytes(budgetBytes)} MB${planned}${slower}`;
}

const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1);
