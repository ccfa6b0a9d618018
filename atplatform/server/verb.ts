import { AtKeyInvalid } from "../protocol/at-key.js";
import { AtSignInvalid } from "../protocol/at-sign.js";
import { SyntaxInvalid } from "../../core/errors.js";
import { CommandInvalid, type VerbCodec } from "../protocol/verb-codec.js";
import { Refusal } from "./refusal.js";
import type { Reply } from "./reply.js";
import type { Services } from "./services.js";
import type { Session } from "./session.js";

/** What a verb needs of the connection it came over. */
export interface Call {
  readonly session: Session;
  readonly connection: ConnectionHandle;
  /** Aborts when the connection or the server ends. */
  readonly signal: AbortSignal;
}

/** A connection as the verbs and the server see it. */
export interface ConnectionHandle {
  readonly session: Session;
  /** Sends a line that is no reply: to monitors. Rejects when the connection is gone. */
  send(line: string): Promise<void>;
  /** Ends the connection when the reply under way has left. */
  close(): void;
  /** Ends the connection at once. */
  destroy(): void;
}

/** A verb as the dispatcher sees it: checks, in the order of spec 2.7, are made outside. */
export interface Handler {
  readonly needsAuthentication: boolean;
  /** @throws a Refusal. */
  run(line: string, call: Call, services: Services): Reply | Promise<Reply>;
}

/** Joins a codec and what is done with the command. */
export function verb<Command>(
  codec: Pick<VerbCodec<Command>, "parse">,
  needsAuthentication: boolean,
  run: (command: Command, call: Call, services: Services) => Reply | Promise<Reply>,
): Handler {
  return {
    needsAuthentication,
    run: (line, call, services) => run(parsed(codec, line), call, services),
  };
}

function parsed<Command>(codec: Pick<VerbCodec<Command>, "parse">, line: string): Command {
  try {
    return codec.parse(line);
  } catch (error) {
    throw asRefusal(error);
  }
}

/** What the codecs throw, as the client is to read it. */
export function asRefusal(error: unknown): unknown {
  if (error instanceof CommandInvalid) return new Refusal(error.atCode, error.message, { cause: error });
  if (error instanceof AtSignInvalid) return new Refusal("AT0011", error.message, { cause: error, closes: true });
  if (error instanceof AtKeyInvalid) return new Refusal("AT0016", error.message, { cause: error });
  if (error instanceof SyntaxInvalid) return new Refusal("AT0003", error.message, { cause: error });
  return error;
}
