import { chmod, rm } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { codeOf, EdgeError, SyntaxInvalid } from "../core/errors.js";
import { LineFramer } from "../core/line-framer.js";
import type { Log } from "../core/log.js";
import type { Disposable } from "../core/scope.js";
import { type JsonFields, parseJson } from "../messages/json-field.js";
import { LOCAL_LIMITS, withSocketPath } from "./local-socket.js";

/** One thing that the agent can be asked. The result is sent as JSON. @throws {EdgeError}, of which code and text are sent. */
export type LocalOp = (args: JsonFields, signal: AbortSignal) => unknown;

/** A socket that cannot be made is no reason to take no readings. */
export function openLocalControl(stateDir: string, log: Log): Promise<LocalControl | undefined> {
  return LocalControl.open(stateDir, log.child({ part: "local" })).catch((error: unknown) => {
    log.error({ err: error }, "nobody on this machine can ask this agent: its socket cannot be made");
    return undefined;
  });
}

/** There is no such operation. */
export class UnknownOp extends EdgeError {
  override readonly code = "UNKNOWN_OP";
}

/**
 * What runs on this machine and may read the state folder can ask the running agent: over the Unix socket
 * `control.sock` in that folder, mode 0600. A request is a line of JSON, and so is its answer, in the order of the
 * requests:
 *
 *     {"op":"health","args":{}}
 *     {"ok":true,"result":…}            or            {"ok":false,"code":"UNKNOWN_OP","message":"…"}
 *
 * Bounds are in {@link LOCAL_LIMITS}. The asking end is `askAgent` in `local-client.ts`.
 */
export class LocalControl implements Disposable {
  readonly #ops = new Map<string, LocalOp>();
  readonly #sockets = new Set<Socket>();
  readonly #life = new AbortController();
  readonly #log: Log;
  readonly #server = createServer((socket) => this.#serve(socket));

  private constructor(log: Log) {
    this.#log = log;
    this.#server.maxConnections = LOCAL_LIMITS.connections;
    this.#server.on("error", (error) => log.warn({ err: error }, "local control"));
  }

  /** To be opened by whoever holds the store, so that a socket that is there is a dead agent's. @throws a system error. */
  static async open(stateDir: string, log: Log): Promise<LocalControl> {
    const control = new LocalControl(log);
    await withSocketPath(stateDir, async (path) => {
      await rm(path, { force: true });
      const before = process.umask(0o177); // from its first moment nobody else's
      try {
        await new Promise<void>((resolve, reject) => {
          control.#server.once("error", reject);
          control.#server.listen(path, resolve);
          process.umask(before);
        });
      } finally {
        process.umask(before);
      }
      await chmod(path, 0o600);
    });
    return control;
  }

  /** A name has one meaning. */
  add(name: string, op: LocalOp): void {
    if (this.#ops.has(name)) throw new Error(`there is a local operation ${name} already`);
    this.#ops.set(name, op);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#life.abort();
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  #serve(socket: Socket): void {
    const framer = new LineFramer({ maxBytes: LOCAL_LIMITS.requestBytes });
    this.#sockets.add(socket);
    socket.setTimeout(LOCAL_LIMITS.idleMs, () => socket.destroy());
    socket.on("error", () => undefined); // whoever asked has gone
    socket.once("close", () => this.#sockets.delete(socket));
    const answerAll = async (chunk: Buffer): Promise<void> => {
      socket.pause(); // one request at a time
      try {
        for (const line of framer.push(chunk)) socket.write(`${await this.#answer(line.toString())}\n`);
        socket.resume();
      } catch {
        socket.destroy(); // a request without end
      }
    };
    socket.on("data", (chunk: Buffer) => void answerAll(chunk));
  }

  async #answer(line: string): Promise<string> {
    try {
      const request = parseJson(line, "request", LOCAL_LIMITS.requestBytes).object();
      const name = request.at("op").text({ max: 64 });
      const op = this.#ops.get(name);
      if (!op) throw new UnknownOp(`this agent knows no ${name}; it knows ${[...this.#ops.keys()].join(", ")}`);
      const args = request.optional("args")?.object() ?? parseJson("{}", "args").object();
      const answer = JSON.stringify({ ok: true, result: (await op(args, this.#life.signal)) ?? null });
      if (answer.length > LOCAL_LIMITS.answerBytes) throw new SyntaxInvalid("the answer is too long: ask for less");
      return answer;
    } catch (error) {
      const code = codeOf(error) ?? "UNEXPECTED";
      if (!(error instanceof EdgeError)) this.#log.error({ err: error }, "a local request failed");
      const message = error instanceof Error ? error.message : String(error);
      return JSON.stringify({ ok: false, code, message });
    }
  }
}
