/** Writes docs/reference/config.md and deploy/atedge.example.toml: `node scripts/run.mjs scripts/config-reference.ts`. */
import { writeFileSync } from "node:fs";
import { exampleFile, referencePage } from "../agent/config/reference.js";

writeFileSync("docs/reference/config.md", referencePage());
writeFileSync("deploy/atedge.example.toml", exampleFile());
