import { CommandRefused } from "../core/command-errors.js";
import type { CommandDescription } from "../core/driver.js";

interface ConfiguredArgument {
  readonly type: "boolean" | "number" | "integer" | "string";
  readonly minimum?: number | undefined;
  readonly maximum?: number | undefined;
  readonly maxLength: number;
  readonly enum?: readonly (string | number | boolean)[] | undefined;
  readonly optional: boolean;
}

/** What the configuration says of a command, whatever the kind of driver. */
export interface ConfiguredCommand {
  readonly name: string;
  readonly args: Readonly<Record<string, ConfiguredArgument>>;
  readonly idempotent: boolean;
  readonly readBack?: string | undefined;
}

/** The command as the driver declares it, its arguments as a JSON Schema. */
export function describe({ name, args, idempotent, readBack }: ConfiguredCommand): CommandDescription {
  const properties = Object.entries(args).map(([key, argument]) => [key, argumentSchema(argument)] as const);
  const required = Object.entries(args).flatMap(([key, { optional }]) => (optional ? [] : [key]));
  return {
    name,
    argsSchema: { type: "object", properties: Object.fromEntries(properties), required, additionalProperties: false },
    idempotent,
    ...(readBack === undefined ? {} : { readBack }),
  };
}

/** @throws {CommandRefused} when no command has the name. */
export function commandNamed<T extends { readonly name: string }>(commands: readonly T[], name: string): T {
  const found = commands.find((command) => command.name === name);
  if (!found) {
    const known = commands.map((command) => command.name).join(", ");
    throw new CommandRefused(`no command ${JSON.stringify(name)}; there is ${known || "none"}`);
  }
  return found;
}

function argumentSchema(argument: ConfiguredArgument): Record<string, unknown> {
  const { type, minimum, maximum, maxLength } = argument;
  return {
    type,
    ...(minimum === undefined ? {} : { minimum }),
    ...(maximum === undefined ? {} : { maximum }),
    ...(type === "string" ? { maxLength } : {}),
    ...(argument.enum ? { enum: argument.enum } : {}),
  };
}
