import { createConnection, type Socket } from "node:net";
import { codeOf, EdgeError, TimedOut } from "../core/errors.js";
import { LineFramer } from "../core/line-framer.js";
import { parseJson } from "../messages/json-field.js";
import { LOCAL_LIMITS, withSocketPath } from "./local-socket.js";

/** No agent runs with this state folder, or none that this user may ask: `cause` tells which. */
export class AgentNotRunning extends EdgeError {
  override readonly code = "AGENT_NOT_RUNNING";
}

/** The agent has said no; `code` is its own. */
export class LocalRefused extends EdgeError {
  override readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

const NOBODY = new Set(["ENOENT", "ENOTDIR", "ECONNREFUSED", "EACCES"]);

/**
 * Asks the agent that runs on this machine; see `local-control.ts`.
 *
 * @throws {AgentNotRunning} {@link LocalRefused} {@link TimedOut}
 */
export async function askAgent(
  stateDir: string,
  op: string,
  args: Readonly<Record<string, unknown>> = {},
  { timeoutMs = 10_000 }: { readonly timeoutMs?: number } = {},
): Promise<unknown> {
  let line: string;
  try {
    line = await withSocketPath(stateDir, (path) => asked(path, JSON.stringify({ op, args }), timeoutMs));
  } catch (cause) {
    if (!NOBODY.has(codeOf(cause) ?? "")) throw cause;
    throw new AgentNotRunning(`no agent can be asked that runs with ${stateDir}`, { cause });
  }
  const answer = parseJson(line, "answer", LOCAL_LIMITS.answerBytes).object();
  if (answer.at("ok").boolean()) return answer.at("result").value;
  throw new LocalRefused(answer.at("code").text({ max: 64 }), answer.at("message").text({ max: 65_536 }));
}

async function asked(path: string, request: string, timeoutMs: number): Promise<string> {
  const socket = createConnection(path);
  try {
    return await answerOn(socket, request, timeoutMs);
  } finally {
    socket.destroy();
  }
}

function answerOn(socket: Socket, request: string, timeoutMs: number): Promise<string> {
  const framer = new LineFramer({ maxBytes: LOCAL_LIMITS.answerBytes });
  return new Promise((resolve, reject) => {
    socket.setTimeout(timeoutMs, () => reject(new TimedOut(`the agent did not answer within ${timeoutMs} ms`)));
    socket.once("error", reject);
    socket.once("close", () => reject(new AgentNotRunning("the agent ended before it answered")));
    socket.on("data", (chunk: Buffer) => {
      try {
        const [line] = framer.push(chunk);
        if (line) resolve(line.toString());
      } catch (error) {
        reject(error);
      }
    });
    socket.write(`${request}\n`);
  });
}
