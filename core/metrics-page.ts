import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { Disposable } from "./scope.js";

/**
 * Serves Prometheus text at `/metrics` on 127.0.0.1 alone, at most 8 connections at once.
 *
 * @param render the text of now, asked for at each request.
 * @throws a Node system error when the port is in use.
 */
export async function serveMetricsPage(
  render: () => string,
  port: number,
): Promise<Disposable & { readonly port: number }> {
  const server = createServer({ requestTimeout: 5000, headersTimeout: 5000 }, (request, response) => {
    const found = request.method === "GET" && request.url === "/metrics";
    response.writeHead(found ? 200 : 404, { "content-type": "text/plain; version=0.0.4; charset=utf-8" });
    response.end(found ? render() : "GET /metrics\n");
  });
  server.maxConnections = 8;
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
