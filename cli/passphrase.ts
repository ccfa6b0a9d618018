import { createInterface } from "node:readline/promises";
import { Writable } from "node:stream";
import { passphraseOf } from "../agent/keys/load-keys.js";
import { Secret } from "../core/secret.js";
import { ArgumentInvalid, CommandFailed } from "./next-step.js";

/** For when a key file turns out to be sealed: the file that was named, or a question on the terminal. */
export function askedPassphrase(file: string | undefined, subject = "the key file"): () => Promise<Secret> {
  if (file !== undefined) return passphraseOf(file);
  return async () => {
    if (!process.stdin.isTTY || !process.stderr.isTTY)
      throw new ArgumentInvalid(
        `${subject} is sealed with a passphrase: name a file that holds it with --passphrase-file`,
      );
    return await typed(`Passphrase of ${subject}: `);
  };
}

/** A new passphrase: typed twice, or from the file. */
export async function chosenPassphrase(file: string | undefined, subject: string): Promise<Secret> {
  const ask = askedPassphrase(file, subject);
  const passphrase = await ask();
  if (file !== undefined) return passphrase;
  if ((await typed("Once more: ")).reveal() !== passphrase.reveal())
    throw new CommandFailed("the two differ: nothing was written");
  return passphrase;
}

/** Reads a line of the terminal without showing it. */
async function typed(question: string): Promise<Secret> {
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
  const terminal = createInterface({ input: process.stdin, output: nowhere, terminal: true });
  process.stderr.write(question); // the terminal echoes no more
  const stop = new AbortController();
  terminal.once("SIGINT", () => stop.abort(new CommandFailed("no passphrase was given")));
  try {
    const line = await terminal.question("", { signal: stop.signal });
    if (line === "") throw new CommandFailed("no passphrase was given");
    return new Secret(line);
  } catch (error) {
    throw stop.signal.aborted ? stop.signal.reason : error;
  } finally {
    terminal.close();
    process.stderr.write("\n");
  }
}
