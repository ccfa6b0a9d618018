import type { Command } from "commander";
import type { AtClient } from "../atplatform/client/at-client.js";
import type { Enrollment } from "../atplatform/client/enrollments.js";
import { asOwner, type OwnerOptions, withOwnerOptions } from "./owner.js";

interface EndOptions extends OwnerOptions {
  readonly device?: string;
  readonly app: string;
}

/** `revoke` for what was approved and back, `deny` for what waits. Each is done once it is done. */
const KINDS = [
  {
    name: "revoke",
    from: "approved",
    to: "revoked",
    description: "shut a board out, at once (owner's machine): it was stolen, sold, or is enrolled anew",
  },
  { name: "deny", from: "pending", to: "denied", description: "refuse a request to be enrolled (owner's machine)" },
  {
    name: "unrevoke",
    from: "revoked",
    to: "approved",
    description: "let a board in again that was revoked, with the keys that it has (owner's machine)",
  },
] as const;

type Kind = (typeof KINDS)[number];

export function register(program: Command): void {
  for (const kind of KINDS)
    withOwnerOptions(program.command(kind.name))
      .description(kind.description)
      .argument("[enrollment]", "its id; or name the board with --device")
      .option("--device <name>", "every enrolment of this device that is there")
      .option("--app <name>", "with --device: the application", "atedge")
      .action(async (id: string | undefined, options: EndOptions) => {
        const { ArgumentInvalid } = await import("./next-step.js");
        if ((id === undefined) === (options.device === undefined))
          throw new ArgumentInvalid("name one of the two: an enrolment id, or --device");
        await asOwner(options, (client, signal) => end(kind, client, id, options, signal));
      });
}

async function end(
  { name, from, to }: Kind,
  { atSign, enrollments }: Pick<AtClient, "atSign" | "enrollments">,
  id: string | undefined,
  { device, app, json = false }: EndOptions,
  signal: AbortSignal,
): Promise<void> {
  const { what, shown } = await import("./enrollments.js");
  const { CommandFailed } = await import("./next-step.js");
  const { baseApp } = await import("../agent/keys/rotation.js");
  const { fetchEnrollment } = await import("./approve-request.js");
  const targets: readonly Enrollment[] =
    id === undefined
      ? (await enrollments.list({ states: [from, to] }, signal)).filter(
          ({ appName, deviceName }) => (appName === app || baseApp(appName) === app) && deviceName === device,
        )
      : [await fetchEnrollment(enrollments, id, signal)];
  if (targets.length === 0)
    throw new CommandFailed(
      `${atSign} has no enrolment of ${app} on ${device} that could be ${to}; see \`atedge enrollments\``,
    );
  // One of them may be what the board is now: two of one device are of no use to it.
  if (name === "unrevoke" && targets.length > 1)
    throw new CommandFailed(
      `${device} has several enrolments, name one: ${targets.map(({ id, status }) => `${id} (${status})`).join(", ")}`,
    );
  for (const target of targets) {
    const already = target.status === to;
    if (!already && target.status !== from)
      throw new CommandFailed(`the enrolment ${target.id} is ${target.status}, so it cannot be ${to}`);
    if (!already && name === "revoke") await enrollments.revoke(target.id, {}, signal);
    if (!already && name === "deny") await enrollments.deny(target.id, signal);
    if (!already && name === "unrevoke") await enrollments.unrevoke(target.id, signal);
    const text = `${atSign}: ${already ? `was ${to} already` : to}: ${what(target)} (${target.id})`;
    process.stdout.write(`${json ? JSON.stringify({ ...shown(target), status: to, already }) : text}\n`);
  }
}
