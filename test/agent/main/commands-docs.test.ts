import { readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { parse } from "smol-toml";
import { parseConfig } from "../../../agent/config/parse.js";
import { agentCommands, type AgentCommandDeps } from "../../../agent/control/agent-commands.js";
import { faultOf } from "../../../drivers/arguments.js";

const page = readFileSync(join(process.cwd(), "docs", "operate", "commands.md"), "utf8");
const blocks = (language: string): string[] =>
  [...page.matchAll(new RegExp(`\`\`\`${language}\n([\\s\\S]*?)\`\`\``, "gu"))].map(([, text = ""]) => text);
// Only what the commands are is looked at here; test/agent/main/commands.test.ts runs them.
const { commands } = agentCommands({} as AgentCommandDeps);

t.test("docs/operate/commands.md", async (t) => {
  t.test("shows a configuration that the agent takes", async (t) => {
    const driver = `[[driver]]\nid = "vent"\ntype = "simulated"\n`;
    const text = `atsign = "@greenhouse"\ndevice = "north"\n${blocks("toml").join("\n")}\n${driver}`;
    const { config } = parseConfig(text, "/");
    t.equal(config.allow.length, 4);
    t.match(config.rule, [{ name: "too-hot", args: { percent: 100 } }]);
    t.equal((parse(text).allow as unknown[]).length, 4);
  });

  t.test("names every command of the agent, and no other", async (t) => {
    const table = [...page.matchAll(/^\| `([a-z-]+)` +\| (.*?) +\|/gmu)].map(([, name]) => name);
    t.same([...table, "driver-enable"].sort(), commands.map(({ name }) => name).sort());
  });

  t.test("calls them with arguments that they take", async (t) => {
    const calls = [
      ...blocks("console")
        .join("\n")
        .matchAll(/^\$ atedge call \S+ agent (\S+)(?: '(.*?)')?/gmu),
    ];
    t.ok(calls.length >= 4);
    for (const [line, name, args = "{}"] of calls) {
      const command = commands.find((known) => known.name === name);
      t.equal(faultOf(command?.argsSchema ?? { type: "none" }, JSON.parse(args)), undefined, line);
    }
  });
});
