import { setFlagsFromString } from "node:v8";
import { createContext, runInContext, Script } from "node:vm";
import { codeOf } from "../../core/errors.js";
import { invalidSyntax } from "./refusal.js";

const MAX_PATTERN_LENGTH = 1024;
/** Of the processor, where V8's linear engine cannot be used: for all tests of one command together. */
const COMMAND_BUDGET_MS = 200;
/** And for each test of a monitor, which lives for months; one that took longer is used no more. */
const TEST_BUDGET_MS = 50;

/** What an expression is for: one command, or every notification from now on. */
export type RegexUse = "command" | "monitor";

/** An expression that a client gave; it is searched for, not anchored. */
export interface ClientRegex {
  /** @throws a Refusal when the expression takes too long. */
  test(text: string): boolean;
}

/**
 * Compiles an expression that must not be able to stop the server (spec 10.5, ReDoS). V8's linear-time engine runs
 * nearly all; what needs backtracking (look-around, back-references, huge repetitions) runs under a time limit.
 *
 * @throws a Refusal (AT0003) on an expression that is none.
 */
export function compileClientRegex(pattern: string, use: RegexUse = "command"): ClientRegex {
  if (pattern.length > MAX_PATTERN_LENGTH) {
    throw invalidSyntax(`a regular expression has at most ${MAX_PATTERN_LENGTH} characters`);
  }
  return compileLinear(pattern) ?? compileLimited(pattern, use);
}

let linearEngineOn = false;

function compileLinear(pattern: string): ClientRegex | undefined {
  if (!linearEngineOn) setFlagsFromString("--enable-experimental-regexp-engine"); // makes the flag `l` known, no more
  linearEngineOn = true;
  try {
    return new RegExp(pattern, "l");
  } catch {
    return undefined;
  }
}

function compileLimited(pattern: string, use: RegexUse): ClientRegex {
  try {
    new RegExp(pattern);
  } catch (cause) {
    throw invalidSyntax(`invalid regular expression: ${cause instanceof Error ? cause.message : String(cause)}`);
  }
  const sandbox: { text: string; pattern: string } = { text: "", pattern };
  const context = createContext(sandbox);
  runInContext("const regex = new RegExp(pattern)", context);
  const script = new Script("regex.test(text)");
  let leftMs = use === "command" ? COMMAND_BUDGET_MS : TEST_BUDGET_MS;
  return {
    test(text) {
      sandbox.text = text;
      let spentMs = 0;
      while (leftMs - spentMs >= 1) {
        const startMs = processorMs();
        try {
          return script.runInContext(context, { timeout: Math.ceil(leftMs - spentMs) }) === true;
        } catch (error) {
          // The limit is one of the clock: on a busy machine others may have had the time. Then it is tried again.
          if (codeOf(error) !== "ERR_SCRIPT_EXECUTION_TIMEOUT") throw error;
        } finally {
          spentMs += processorMs() - startMs;
          if (use === "command") [leftMs, spentMs] = [leftMs - spentMs, 0];
        }
      }
      leftMs = 0;
      throw tooSlow(pattern);
    },
  };
}

function processorMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

const tooSlow = (pattern: string): Error =>
  invalidSyntax(`the regular expression ${pattern.slice(0, 80)} takes too long`);
