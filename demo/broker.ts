/**
 * An MQTT broker for the demo and for tests, on this machine only.
 *
 *     broker [--port PORT] [--host HOST]
 *
 * Port 0, the default, takes a free one. Prints `{"port":40123}` when it listens.
 */
import { createServer } from "node:net";
import { parseArgs } from "node:util";
import { Aedes } from "aedes";
import { tellParent, untilToldToEnd } from "./lifetime.js";

const { values } = parseArgs({
  options: { port: { type: "string", default: "0" }, host: { type: "string", default: "127.0.0.1" } },
});

const end = untilToldToEnd();
const broker = await Aedes.createBroker({ concurrency: 1000 });
const server = createServer((socket) => {
  broker.handle(socket);
});
server.on("error", (error) => {
  process.stderr.write(`broker: cannot listen on ${values.host}:${values.port}: ${error.message}\n`);
  process.exitCode = 1;
  process.stdin.destroy();
  broker.close();
});
server.listen(Number(values.port), values.host, () => {
  const address = server.address();
  tellParent({ port: typeof address === "object" && address ? address.port : Number(values.port) });
});
end.addEventListener("abort", () => {
  server.close();
  broker.close();
});
