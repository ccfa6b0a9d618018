import { constants } from "node:fs";
import { access, lstat } from "node:fs/promises";
import { join } from "node:path";
import { codeOf, EdgeError } from "../../core/errors.js";

/** A program that the configuration names may not be run; the message says what to change. */
export class ProgramRefused extends EdgeError {
  override readonly code: string = "PROGRAM_REFUSED";
}

const GROUP_OR_OTHERS_WRITE = 0o022;

/**
 * The path of a program that nobody but its owner could have put there. Links are not followed: they would lead out of
 * the folder.
 *
 * @throws {ProgramRefused}
 */
export async function trustedProgram(folder: string, program: string, owners: readonly number[]): Promise<string> {
  const path = join(folder, program);
  for (const part of [folder, path]) {
    const info = await lstat(part).catch((cause: unknown) => {
      throw new ProgramRefused(`${part} cannot be looked at (${codeOf(cause) ?? "unknown error"})`, { cause });
    });
    const isRight = part === folder ? info.isDirectory() : info.isFile();
    if (!isRight) throw new ProgramRefused(`${part} is no ${part === folder ? "folder" : "plain file"}`);
    if (!owners.includes(info.uid)) throw new ProgramRefused(`${part} is not owned by root: chown root ${part}`);
    if ((info.mode & GROUP_OR_OTHERS_WRITE) !== 0) {
      throw new ProgramRefused(`${part} may be changed by others than its owner: chmod go-w ${part}`);
    }
  }
  await access(path, constants.X_OK).catch((cause: unknown) => {
    throw new ProgramRefused(`${path} is not executable: chmod a+x ${path}`, { cause });
  });
  return path;
}
