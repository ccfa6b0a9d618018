/**
 * A sensor and a lamp on MQTT, for the demo and for tests.
 *
 *     mqtt-sensor --url mqtt://127.0.0.1:1883 [--prefix bench/1] [--rate HZ] [--numbered] [--account FILE]
 *
 * Publishes `{"value":412,"n":17}` on `PREFIX/illuminance` at QoS 1, `n` only when numbered; the account has the
 * numbers that the broker acknowledged (PUBACK). The lamp takes ON, OFF or `{"state":"ON"}` on `PREFIX/lamp/set`,
 * publishes `{"state":"ON"}` on `PREFIX/lamp`, retained, and makes it brighter. Prints `{"connected":true}` at each
 * connection.
 */
import { parseArgs } from "node:util";
import { setTimeout as sleep } from "node:timers/promises";
import { connect } from "mqtt";
import { Account } from "./account.js";
import { tellParent, untilToldToEnd } from "./lifetime.js";

/** What the broker has not acknowledged yet; beyond that the sensor skips a reading instead of queueing it. */
const MAX_UNACKED = 1000;

const { values } = parseArgs({
  options: {
    url: { type: "string" },
    prefix: { type: "string", default: "bench/1" },
    rate: { type: "string", default: "1" },
    numbered: { type: "boolean", default: false },
    account: { type: "string" },
  },
});
if (values.url === undefined) throw new Error("--url: expected mqtt://HOST:PORT");
const { prefix } = values;
const rateHz = Number(values.rate);
if (!(rateHz > 0 && rateHz <= 1000)) throw new Error("--rate: expected 0 to 1000 readings a second");

const end = untilToldToEnd();
const account = new Account(values.account);
const clientId = `atedge-demo-sensor-${prefix.replaceAll(/[^a-z0-9]/gu, "-")}`;
const client = connect(values.url, { clientId, clean: false, reconnectPeriod: 500 });
let lamp = false;
let n = 0;
let unacked = 0;

client.on("error", (error) => process.stderr.write(`mqtt-sensor: ${error.message}\n`));
client.on("connect", () => {
  client.subscribe(`${prefix}/lamp/set`, { qos: 1 }, () => {
    showLamp();
    tellParent({ connected: true });
  });
});
client.on("message", (topic, payload) => {
  const state = /^(?:"?(?<bare>ON|OFF)"?|\{\s*"state"\s*:\s*"(?<inner>ON|OFF)"\s*\})$/u.exec(payload.toString("utf8"));
  if (topic !== `${prefix}/lamp/set` || !state) return;
  lamp = (state.groups?.["bare"] ?? state.groups?.["inner"]) === "ON";
  showLamp();
});

function showLamp(): void {
  client.publish(`${prefix}/lamp`, JSON.stringify({ state: lamp ? "ON" : "OFF" }), { qos: 1, retain: true });
}

function measure(): void {
  if (!client.connected || unacked >= MAX_UNACKED) return;
  const value = Math.round((lamp ? 420 : 40) + Math.random() * 10);
  const mine = ++n;
  unacked += 1;
  account.sent(mine);
  const payload = JSON.stringify(values.numbered ? { value, n: mine } : { value });
  client.publish(`${prefix}/illuminance`, payload, { qos: 1 }, (error) => {
    unacked -= 1;
    if (!error) account.acked(mine);
  });
}

try {
  while (!end.aborted) {
    measure();
    await sleep(1000 / rateHz, undefined, { signal: end });
  }
} catch (error) {
  if (!end.aborted) throw error;
} finally {
  await client.endAsync(true);
  account.close();
}
