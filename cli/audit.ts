import { type Command, InvalidArgumentError } from "commander";
import type { AuditEntry } from "../agent/audit/chain.js";
import type { CallOutcome } from "../remote/call.js";
import { interruption, openRemote, withRemoteOptions, type RemoteOptions } from "./remote-options.js";

interface AuditCliOptions extends RemoteOptions {
  readonly verify?: boolean;
  readonly accept?: boolean;
  readonly last?: number;
  readonly from?: number;
}

const EXAMPLES = `
Examples:
  atedge audit @greenhouse/north --as @grower
  atedge audit @greenhouse/north --as @grower --verify
  atedge audit @greenhouse/north --as @grower --from 1 --json | jq 'select(.kind == "rule")'

The device must allow you "agent/audit". Each line carries the hash of the one before. --verify reads all of them, says
where a line was changed, removed or moved, and remembers the last one on this machine: the next time, an end that was
cut off or a log that was made anew is seen as well.`;

export function register(program: Command): void {
  withRemoteOptions(program.command("audit"))
    .description("read the audit log of a device: commands, rules, changes of configuration and keys")
    .argument("<@owner/device>", "whose device, and which")
    .option("--verify", "check the whole log; exit code 1 when something is wrong with it")
    .option("--accept", "with --verify: take the log as it is, after the device was set up anew")
    .option("--last <n>", "the newest entries (default: 50)", parseCount)
    .option("--from <n>", "entries from this number on", parseCount)
    .addHelpText("after", EXAMPLES)
    .action(async (subject: string, options: AuditCliOptions) => {
      const path = await import("node:path");
      const { randomUUID } = await import("node:crypto");
      const { ChainCheck } = await import("../agent/audit/chain.js");
      const { auditPages } = await import("../remote/audit-pages.js");
      const { call } = await import("../remote/call.js");
      const { defaultStateDir } = await import("../remote/pin-file.js");
      const { readHeads, writeHead } = await import("../remote/audit-heads.js");
      const signal = interruption();
      const { session: opened, log } = await openRemote(subject, options, signal);
      await using session = opened;
      const { owner, address, platform, trust, outbound } = session;
      const ask = (args: { readonly from: number }) => {
        const command = { target: "agent", command: "audit", args, id: randomUUID() };
        return call({ platform, trust, outbound, owner, address, ...command, log }, signal);
      };
      const { verify = false, accept = false, json = false } = options;
      const from = verify ? 1 : (options.from ?? (await newest(ask, options.last ?? 50)));

      const heads = path.join(options.state ?? defaultStateDir(), "audit-heads.json");
      const device = `${owner}/${address.device}.${address.ns}`;
      const check = new ChainCheck(accept ? undefined : (await readHeads(heads))[device]);
      for await (const { lines } of auditPages(ask, from)) {
        for (const line of lines) {
          const entry = check.add(line);
          if (!verify) process.stdout.write(json ? `${line}\n` : entry ? lineOf(entry) : `unreadable: ${line}\n`);
        }
      }
      if (!verify) return;
      const fault = check.fault();
      const { head } = check;
      if (fault === undefined && head) await writeHead(heads, device, head);
      else process.exitCode = 1;
      if (json) process.stdout.write(`${JSON.stringify({ device, ok: fault === undefined, fault, head })}\n`);
      else if (fault === undefined) process.stdout.write(`${subject}: ${head?.n ?? 0} entries, nothing is wrong\n`);
      else process.stderr.write(`atedge: ${subject}: ${fault}\n`);
    });
}

/** Where the newest `count` entries begin. */
async function newest(ask: (args: { readonly from: number }) => Promise<CallOutcome>, count: number): Promise<number> {
  const { auditPages } = await import("../remote/audit-pages.js");
  for await (const { head } of auditPages(ask, Number.MAX_SAFE_INTEGER)) return Math.max(1, head.n - count + 1);
  return 1;
}

/** One line for people; what came from outside is shown as JSON, so that it cannot move the cursor. */
function lineOf({ n, at, kind, ...fields }: AuditEntry): string {
  const told = Object.entries(fields).filter(([name]) => name !== "prev");
  const shown = told.map(([name, value]) => {
    const isPlain = typeof value === "string" && /^[\w@./:*-]+$/u.test(value);
    return `${name}=${isPlain ? value : JSON.stringify(value)}`;
  });
  return `${n} ${new Date(at).toISOString()} ${kind} ${shown.join(" ")}\n`;
}

function parseCount(text: string): number {
  const count = Number(text);
  if (Number.isSafeInteger(count) && count > 0) return count;
  throw new InvalidArgumentError("Expected a whole number from 1.");
}
