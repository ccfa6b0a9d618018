/**
 * A microcontroller that is not there: thermometer and relay on a real pty, a JSON object a line.
 *
 *     board [--rate HZ] [--numbered] [--account FILE] [--link PATH]
 *
 * Prints `{"path":"/dev/pts/3"}` first. Says `{"t":21.5,"relay":false}`, numbered also `"n":17`, which it wants
 * answered by `ack 17`. Takes `{"id":1,"cmd":"relay","on":true}`, `{"id":2,"cmd":"state"}` and answers
 * `{"id":1,"relay":true}` or `{"id":1,"error":"…"}`. The relay switches a heater: it gets warmer. `--link` makes a
 * symbolic link to the pty, a path that stays the same.
 */
import { rmSync, symlinkSync } from "node:fs";
import { parseArgs } from "node:util";
import { setTimeout as sleep } from "node:timers/promises";
import { utf8 } from "../core/bytes.js";
import { LineFramer } from "../core/line-framer.js";
import { Account } from "./account.js";
import { tellParent, untilToldToEnd } from "./lifetime.js";
import { NoPty, openPty, type Pty } from "./pty.js";

/** A UART does not wait: what nobody reads is lost. */
const MAX_UNSENT_BYTES = 16_384;

const { values } = parseArgs({
  options: {
    rate: { type: "string", default: "1" },
    numbered: { type: "boolean", default: false },
    account: { type: "string" },
    link: { type: "string" },
  },
});
const rateHz = Number(values.rate);
if (!(rateHz > 0 && rateHz <= 1000)) throw new Error("--rate: expected 0 to 1000 readings a second");

const end = untilToldToEnd();
const account = new Account(values.account);
const pty = openPtyOrEnd();
if (values.link !== undefined) {
  rmSync(values.link, { force: true });
  symlinkSync(pty.path, values.link);
}

let relay = false;
let temperatureCel = 21;
let n = 0;

function openPtyOrEnd(): Pty {
  try {
    return openPty();
  } catch (error) {
    if (!(error instanceof NoPty)) throw error;
    process.stderr.write(`board: ${error.message}\n`);
    process.exit(1);
  }
}

function say(line: string): boolean {
  if (pty.unsentBytes >= MAX_UNSENT_BYTES) return false;
  pty.write(utf8(`${line}\n`));
  return true;
}

function measure(): void {
  // Towards 20 °C, or 30 with the heater, with a time constant of a minute, and some noise.
  temperatureCel += ((relay ? 30 : 20) - temperatureCel) / (60 * rateHz) + (Math.random() - 0.5) * 0.05;
  const t = Math.round(temperatureCel * 100) / 100;
  if (!values.numbered) say(JSON.stringify({ t, relay }));
  else if (say(JSON.stringify({ t, relay, n: n + 1 }))) account.sent(++n);
}

function take(line: string): void {
  const acked = /^ack (?<n>\d{1,15})$/u.exec(line)?.groups?.["n"];
  if (acked !== undefined) account.acked(Number(acked));
  else if (line !== "") say(JSON.stringify(answer(line)));
}

function answer(line: string): Readonly<Record<string, unknown>> {
  let request: unknown;
  try {
    request = JSON.parse(line);
  } catch {
    return { error: "no JSON" };
  }
  if (typeof request !== "object" || request === null) return { error: "no object" };
  const id = "id" in request ? request.id : null;
  const cmd = "cmd" in request ? request.cmd : undefined;
  if (cmd === "state") return { id, relay };
  if (cmd !== "relay") return { id, error: "unknown command" };
  if (!("on" in request) || typeof request.on !== "boolean") return { id, error: "on: expected true or false" };
  relay = request.on;
  return { id, relay };
}

const lines = new LineFramer({ maxBytes: 1024, onLimit: "drop" });
pty.onData((chunk) => lines.push(chunk).forEach((line) => take(line.toString("utf8"))));
tellParent({ path: values.link ?? pty.path });
say("atedge demo board, thermometer and relay");
try {
  while (!end.aborted) {
    measure();
    await sleep(1000 / rateHz, undefined, { signal: end });
  }
} catch (error) {
  if (!end.aborted) throw error;
} finally {
  pty.unplug();
  account.close();
  if (values.link !== undefined) rmSync(values.link, { force: true });
}
