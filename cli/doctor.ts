import type { Command } from "commander";

interface DoctorOptions {
  readonly config: string;
  readonly offline?: boolean;
  readonly json?: boolean;
}

const HELP = `
Exit code 1 when something is wrong. Run it as the agent's user: what a file's mode allows differs from user to user.

Examples:
  sudo -u atedge atedge doctor
  atedge doctor --json | jq -r 'select(.state == "bad") | .todo'
  atedge doctor aside          messages that could not be sent, for their own sake
  atedge doctor retry 7        one of them once more
  atedge doctor drop 7`;

const MARKS = { ok: "ok  ", warn: "warn", bad: "BAD ", skipped: "-   " } as const;

export function register(program: Command): void {
  const doctor = withConfig(program.command("doctor"))
    .description("look at everything that has to be right for this device to work, and say what is not")
    .option("--offline", "without what connects to somebody")
    .addHelpText("after", HELP)
    .action(async ({ config: configFile, offline = false, json = false }: DoctorOptions) => {
      const { examine, worstOf } = await import("../agent/doctor/doctor.js");
      const { interruption } = await import("./remote-options.js");
      const findings = [];
      for await (const finding of examine({ configFile, offline }, interruption())) {
        findings.push(finding);
        const { check, state, text, todo } = finding;
        if (json) print(JSON.stringify(finding));
        else
          print(
            `${MARKS[state]}  ${check.padEnd(12)} ${text}${todo === undefined ? "" : `\n${" ".repeat(19)}→ ${todo}`}`,
          );
      }
      const worst = worstOf(findings);
      if (!json) print(summary(findings.filter(({ state }) => state === "bad").length, worst));
      if (worst === "bad") process.exitCode = 1;
    });

  withConfig(doctor.command("aside"))
    .description("list messages that were set aside, as they can never be sent")
    .action(async ({ config, json = false }: DoctorOptions) => {
      const { agentAt } = await import("../agent/doctor/running-agent.js");
      for (const entry of await agentAt(await stateDirOf(config)).aside()) {
        const { id, atMs, reader, class: name, bytes, why } = entry;
        const line = `${id}  ${new Date(atMs).toISOString()}  ${name} for ${reader}, ${bytes} bytes: ${why}`;
        print(json ? JSON.stringify(entry) : line.replaceAll(/\p{C}/gu, "?"));
      }
    });
  for (const [name, description, done] of [
    ["retry", "send a message once more that was set aside", "will be sent once more"],
    ["drop", "forget a message that was set aside", "is forgotten"],
  ] as const)
    withConfig(doctor.command(`${name} <id>`))
      .description(description)
      .action(async (id: string, { config, json = false }: DoctorOptions) => {
        const { askAgent } = await import("../agent/local-client.js");
        const { ArgumentInvalid } = await import("./next-step.js");
        if (!/^\d{1,15}$/u.test(id)) throw new ArgumentInvalid("expected a number as `atedge doctor aside` lists it");
        await askAgent(await stateDirOf(config), `aside.${name}`, { id: Number(id) });
        print(json ? JSON.stringify({ id: Number(id), [name]: true }) : `${id} ${done}`);
      });
}

function withConfig(command: Command): Command {
  return command
    .option("--config <file>", "the configuration of the agent", "/etc/atedge/atedge.toml")
    .option("--json", "print JSON, one object a line");
}

async function stateDirOf(configFile: string): Promise<string> {
  const { loadConfig } = await import("../agent/config/load.js");
  return (await loadConfig(configFile)).config.stateDir;
}

function summary(wrong: number, worst: "ok" | "warn" | "bad" | "skipped"): string {
  if (worst === "bad") return `\n${wrong} thing${wrong === 1 ? " is" : "s are"} wrong`;
  return worst === "warn" ? "\nnothing is wrong, but look at the warnings" : "\nall is well";
}

const print = (text: string): void => void process.stdout.write(`${text}\n`);
