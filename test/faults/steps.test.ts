import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { STEPS } from "../../core/steps.js";

/** Program text of the agent, without comments. */
const sources = readdirSync("agent", { recursive: true, encoding: "utf8" })
  .filter((name) => name.endsWith(".ts"))
  .map((name) => ({
    name: join("agent", name),
    text: readFileSync(join("agent", name), "utf8").replaceAll(/\/\*[\s\S]*?\*\/|(?<=^|\s)\/\/.*$/gmu, ""),
  }));

/** Calls of the atServer, and of what carries out commands. */
const CALLS = /\bclient\.(?:notify|put|delete|notificationStatus)\(|\btargets\.call\(/gu;
/** Programs beside the running agent, and a look at a device that changes nothing. */
const OTHERS = ["agent/doctor/", "agent/keys/rotate.ts"];
const LOOK = /targets\.call\(target, readBack/u;
/** The write of a group commit; only `writes.ts`, where steps are passed, and the opening may use it. */
const COMMITS = /[cC]ommit\.write\(/gu;
const MAY_COMMIT = ["agent/store/writes.ts", "agent/store/store.ts"];

const found = (pattern: RegExp): { name: string; text: string; at: number }[] =>
  sources.flatMap(({ name, text }) => [...text.matchAll(pattern)].map(({ index }) => ({ name, text, at: index })));
const lineOf = ({ name, text, at }: { name: string; text: string; at: number }): string =>
  `${name}: ${text.slice(text.lastIndexOf("\n", at) + 1, text.indexOf("\n", at)).trim()}`;

t.test("each write to the store names its step", (t) => {
  t.same(
    found(COMMITS)
      .filter(({ name }) => !MAY_COMMIT.includes(name))
      .map(lineOf),
    [],
  );
  const writes = found(/[wW]rites\.write\(/gu);
  t.ok(writes.length > 15, `${writes.length} writes`);
  t.same(writes.filter(({ text, at }) => !/^[wW]rites\.write\(\s*(?:"|step\b)/u.test(text.slice(at))).map(lineOf), []);
  t.end();
});

t.test("each call of an atServer or a device is a step", (t) => {
  const calls = found(CALLS).filter(
    ({ name, text, at }) => !OTHERS.some((other) => name.startsWith(other)) && !LOOK.test(text.slice(at, at + 40)),
  );
  t.ok(calls.length >= 6, `${calls.length} calls`);
  // Either inside of atStep(…), or a function of its own that is handed to it just below.
  const isStep = ({ text, at }: { text: string; at: number }): boolean =>
    /atStep\("[a-z.]+",\s*(?:\(\)\s*=>\s*)?$/u.test(text.slice(Math.max(0, at - 120), at).replace(/this\.#$/u, "")) ||
    (/=>\s*$/u.test(text.slice(Math.max(0, at - 12), at)) && /atStep\(/u.test(text.slice(at, at + 200)));
  t.same(calls.filter((call) => !isStep(call)).map(lineOf), []);
  t.end();
});

t.test("each step of the list is in the program", (t) => {
  const program = sources.map(({ text }) => text).join("\n");
  t.same(
    STEPS.filter((step) => !program.includes(`"${step}"`)),
    [],
  );
  t.end();
});
