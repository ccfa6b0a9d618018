import { stat } from "node:fs/promises";
import { codeOf } from "./errors.js";

/** @throws the system error when that cannot be told, such as `EACCES`. */
export const fileExists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    (error: unknown) => {
      if (codeOf(error) === "ENOENT") return false;
      throw error;
    },
  );
