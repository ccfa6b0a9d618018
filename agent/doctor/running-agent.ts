import { AgentNotRunning, askAgent } from "../local-client.js";
import type { AsideSummary } from "../store/set-aside.js";
import { EdgeError } from "../../core/errors.js";
import type { AgentHealth } from "../health/health.js";
import { bad, type Finding, ok, skipped, warn } from "./finding.js";

/** What a doctor asks a running agent: over its socket, or within the agent itself. */
export interface RunningAgent {
  health(): Promise<AgentHealth>;
  aside(): Promise<readonly AsideSummary[]>;
}

/** The agent that runs with this state folder on this machine. Answers are our own agent's, so they are what they say. */
export const agentAt = (stateDir: string): RunningAgent => ({
  health: async () => (await askAgent(stateDir, "health")) as AgentHealth,
  aside: async () =>
    ((await askAgent(stateDir, "aside.list")) as { readonly entries: readonly AsideSummary[] }).entries,
});

/** What each part says, and what was set aside. */
export async function checkAgent(
  agent: RunningAgent,
): Promise<{ readonly findings: readonly Finding[]; readonly isRunning: boolean }> {
  let health: AgentHealth;
  try {
    health = await agent.health();
  } catch (error) {
    if (error instanceof AgentNotRunning)
      return {
        isRunning: false,
        findings: [skipped("agent", "does not run, or this user may not ask it: `systemctl status atedge`")],
      };
    if (!(error instanceof EdgeError)) throw error;
    return {
      isRunning: true,
      findings: [bad("agent", `does not answer: ${error.message}`, "`journalctl -u atedge -n 50`")],
    };
  }
  const parts = health.parts.flatMap(({ name, state, code, sinceMs }) => {
    if (state === "ok") return [];
    const text = `${name} is ${state} since ${new Date(sinceMs).toISOString()}${code === undefined ? "" : ` (${code})`}`;
    return [state === "failed" ? bad("agent", text, "`journalctl -u atedge -n 50` says why") : warn("agent", text)];
  });
  const aside = await agent.aside();
  const findings = parts.length > 0 ? parts : [ok("agent", `runs, and all its ${health.parts.length} parts are well`)];
  return { isRunning: true, findings: [...findings, ...setAside(aside)] };
}

const SHOWN = 20;

function setAside(aside: readonly AsideSummary[]): Finding[] {
  const lines = aside.slice(0, SHOWN).map(({ id, atMs, reader, class: name, why, bytes }) => {
    const text = `${id}: ${name} for ${reader}, ${bytes} bytes, set aside ${new Date(atMs).toISOString()}: ${why}`;
    return bad(
      "set aside",
      text.replaceAll(/\p{C}/gu, "?"),
      `\`atedge doctor retry ${id}\` once the reason is gone, or \`atedge doctor drop ${id}\``,
    );
  });
  if (aside.length > SHOWN)
    lines.push(bad("set aside", `and ${aside.length - SHOWN} more`, "`atedge doctor aside` lists them all"));
  return lines;
}
