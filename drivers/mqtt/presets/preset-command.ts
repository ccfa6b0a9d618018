import type { Template } from "../../template.js";
import { configuredCommand, type PublishCommand } from "../publish-command.js";

interface PresetCommand {
  readonly name: string;
  readonly topic: string;
  readonly payload: Template;
  readonly args: Readonly<Record<string, "string" | "number" | "boolean">>;
  readonly idempotent: boolean;
  readonly readBack?: string;
  readonly answerTopic: string;
}

/** A command as a `[[driver.command]]` table with these keys would give it. */
export function presetCommand({ args, ...keys }: PresetCommand): PublishCommand {
  const described = Object.entries(args).map(
    ([name, type]) => [name, { type, maxLength: 256, optional: false }] as const,
  );
  const rest = { qos: 1, retain: false, timeoutMs: 5000, answerPointer: [], correlate: false } as const;
  return configuredCommand({ ...rest, ...keys, args: Object.fromEntries(described) });
}
