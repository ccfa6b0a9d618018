import { fileURLToPath } from "node:url";
import { runCommand } from "./commands.js";
import { runHelper } from "./helper.js";

const what = process.argv[2] === "recover" ? "recover" : "run";
const say = (text: string): void => void process.stdout.write(`${text}\n`);
await runHelper(what, { run: runCommand, program: fileURLToPath(import.meta.url), say });
