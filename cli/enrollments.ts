import { Option, type Command } from "commander";
import type { Enrollment } from "../atplatform/client/enrollments.js";
import { asOwner, type OwnerOptions, withOwnerOptions } from "./owner.js";

interface ListOptions extends OwnerOptions {
  readonly status?: Enrollment["status"];
}

export function register(program: Command): void {
  withOwnerOptions(program.command("enrollments"))
    .description("list the boards and apps of an atSign, and those that ask to become one (owner's machine)")
    .addOption(
      new Option("--status <status>", "only these").choices(["pending", "approved", "denied", "revoked", "expired"]),
    )
    .action(async (options: ListOptions) => {
      await asOwner(options, async (client, signal) => {
        const { status, json } = options;
        for (const enrollment of await client.enrollments.list(status ? { states: [status] } : {}, signal))
          process.stdout.write(`${json ? JSON.stringify(shown(enrollment)) : enrollmentLine(enrollment)}\n`);
      });
    });
}

/** An enrolment as `--json` prints it. */
export function shown({ id, appName, deviceName, namespaces, status, fingerprint }: Enrollment) {
  return { enrollmentId: id, app: appName, device: deviceName, namespaces, status, fingerprint: fingerprint ?? null };
}

export function enrollmentLine(enrollment: Enrollment): string {
  return `${enrollment.status.padEnd(8)}  ${enrollment.id}  ${what(enrollment)}`;
}

/** `atedge on north, north.atedge:rw` */
export function what({ appName, deviceName, namespaces }: Enrollment): string {
  const access = Object.entries(namespaces).map(([name, access]) => `${name}:${access}`);
  // The names come from whoever asked, and must not move a terminal.
  return `${appName} on ${deviceName}, ${access.join(" ")}`.replaceAll(/\p{C}/gu, "?");
}
