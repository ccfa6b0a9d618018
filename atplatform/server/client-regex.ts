import { setFlagsFromString } from "node:v8";
import { createContext, runInContext, Script } from "node:vm";
import { codeOf } from "../../core/errors.js";
import { invalidSyntax } from "./refusal.js";

const MAX_PATTERN_LENGTH = 1024;
/** For all tests of one expression together that V8's linear engine cannot run. */
const BACKTRACKING_BUDGET_MS = 200;

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
export function compileClientRegex(pattern: string): ClientRegex {
  if (pattern.length > MAX_PATTERN_LENGTH) {
    throw invalidSyntax(`a regular expression has at most ${MAX_PATTERN_LENGTH} characters`);
  }
  return compileLinear(pattern) ?? compileLimited(pattern);
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

function compileLimited(pattern: string): ClientRegex {
  try {
    new RegExp(pattern);
  } catch (cause) {
    throw invalidSyntax(`invalid regular expression: ${cause instanceof Error ? cause.message : String(cause)}`);
  }
  const sandbox: { text: string; pattern: string } = { text: "", pattern };
  const context = createContext(sandbox);
  runInContext("const regex = new RegExp(pattern)", context);
  const script = new Script("regex.test(text)");
  let leftMs = BACKTRACKING_BUDGET_MS;
  return {
    test(text) {
      const startMs = performance.now();
      try {
        if (leftMs < 1) throw tooSlow(pattern);
        sandbox.text = text;
        return script.runInContext(context, { timeout: Math.ceil(leftMs) }) === true;
      } catch (error) {
        if (codeOf(error) === "ERR_SCRIPT_EXECUTION_TIMEOUT") throw tooSlow(pattern);
        throw error;
      } finally {
        leftMs -= performance.now() - startMs;
      }
    },
  };
}

const tooSlow = (pattern: string): Error =>
  invalidSyntax(`the regular expression ${pattern.slice(0, 80)} takes too long`);
