import { connect as connectTcp, isIP, type Socket } from "node:net";
import { SyntaxInvalid } from "../../core/errors.js";
import { Secret } from "../../core/secret.js";
import { ConnectFailed, ProxyRefused } from "./errors.js";
import { formatHostPort, type HostPort, parseHostPort } from "./host-port.js";

/** An HTTP proxy that is asked to `CONNECT`; what passes is TLS between us and the atServer. */
export interface HttpProxy extends HostPort {
  /** With the proxy itself TLS is spoken too. */
  readonly secure: boolean;
  /** `user:password`. */
  readonly credentials?: Secret;
}

/** Which way: `none` goes straight, `environment` does as `HTTPS_PROXY` and `NO_PROXY` say. */
export type ProxyChoice = HttpProxy | "none" | "environment";

const MAX_HEAD_BYTES = 16 * 1024;
const DEFAULT_PORTS: Readonly<Record<string, number>> = { "http:": 80, "https:": 443 };

/**
 * `http://[user:password@]host[:port]`, also with `https:`; the scheme may be left out.
 *
 * @throws {SyntaxInvalid} without a word of what was given: there may be a password in it.
 */
export function parseHttpProxy(text: string): HttpProxy {
  let url: URL;
  try {
    url = new URL(/^[a-z][a-z0-9+.-]*:\/\//iu.test(text) ? text : `http://${text}`);
  } catch {
    throw new SyntaxInvalid("the proxy: expected http://host:port");
  }
  const defaultPort = DEFAULT_PORTS[url.protocol];
  if (defaultPort === undefined) throw new SyntaxInvalid(`the proxy: expected http: or https:, got ${url.protocol}`);
  const credentials = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`;
  return {
    ...parseHostPort(url.host, defaultPort),
    secure: url.protocol === "https:",
    ...(credentials !== ":" && { credentials: new Secret(credentials) }),
  };
}

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * What `HTTPS_PROXY` names, unless `NO_PROXY` or the address itself (this machine) forbids it; lower-case names go first,
 * as with curl.
 *
 * @throws {SyntaxInvalid}
 */
export function proxyFromEnvironment(to: HostPort, env: Environment = process.env): HttpProxy | undefined {
  const text = env["https_proxy"] ?? env["HTTPS_PROXY"];
  if (text === undefined || text === "" || isThisMachine(to.host)) return undefined;
  const exceptions = env["no_proxy"] ?? env["NO_PROXY"] ?? "";
  return exceptions.split(/[\s,]+/u).some((entry) => covers(entry, to)) ? undefined : parseHttpProxy(text);
}

/** `example.org` and `.example.org` mean the name and all below it; `*` everything; a port narrows. */
function covers(entry: string, { host, port }: HostPort): boolean {
  if (entry === "*") return true;
  const match = /^(?:\*?\.)?(?<name>[^:]+|\[[^\]]+\]|[0-9A-Fa-f:]{3,})(?::(?<port>\d+))?$/u.exec(entry);
  const name = match?.groups?.name?.replaceAll(/[[\]]/gu, "").toLowerCase();
  if (name === undefined || (match?.groups?.port !== undefined && Number(match.groups.port) !== port)) return false;
  const wanted = host.toLowerCase();
  return wanted === name || (isIP(wanted) === 0 && wanted.endsWith(`.${name}`));
}

const isThisMachine = (host: string): boolean =>
  host === "localhost" || host.endsWith(".localhost") || host === "::1" || /^127\./u.test(host);

/**
 * A socket whose other end is `to`, made by the proxy.
 *
 * @throws {ProxyRefused} with the proxy's status line, or {@link ConnectFailed}; `signal.reason` when it aborts.
 */
export async function openTunnel(proxy: HttpProxy, to: HostPort, signal: AbortSignal): Promise<Socket> {
  const name = `the proxy ${formatHostPort(proxy)}`;
  const { host, port } = proxy;
  const tls = proxy.secure ? await import("node:tls") : undefined;
  signal.throwIfAborted();
  return await new Promise((resolve, reject) => {
    const servername = isIP(host) === 0 ? { servername: host } : {};
    const socket = tls ? tls.connect({ host, port, ...servername }) : connectTcp({ host, port });
    let head = Buffer.alloc(0);
    const settle = (): void => {
      signal.removeEventListener("abort", aborted);
      socket.off("data", received);
      socket.off("error", failed);
      socket.off("close", closed);
    };
    const refuse = (error: Error): void => {
      settle();
      socket.on("error", () => undefined);
      socket.destroy();
      reject(error);
    };
    const aborted = (): void => refuse(signal.reason as Error);
    const failed = (cause: Error): void => refuse(new ConnectFailed(`no connection to ${name}`, { cause }));
    const closed = (): void => refuse(new ProxyRefused(`${name} closed the connection`));
    const received = (chunk: Buffer): void => {
      head = Buffer.concat([head, chunk]);
      const end = head.indexOf("\r\n\r\n");
      if (end === -1) {
        if (head.length > MAX_HEAD_BYTES) refuse(new ProxyRefused(`${name} answered with no end`));
        return;
      }
      const status = /^HTTP\/1\.[01] (?<code>\d{3})(?: (?<reason>[^\r\n]{0,80}))?/u.exec(
        head.toString("latin1"),
      )?.groups;
      if (!status?.code?.startsWith("2")) {
        const said = status ? `${status.code ?? ""} ${status.reason ?? ""}`.trim() : "something that is not HTTP";
        return refuse(new ProxyRefused(`${name} does not connect to ${formatHostPort(to)}: ${said}`));
      }
      settle();
      socket.pause();
      const early = head.subarray(end + 4);
      if (early.length > 0) socket.unshift(early);
      resolve(socket);
    };
    signal.addEventListener("abort", aborted, { once: true });
    socket.on("error", failed);
    socket.on("close", closed);
    socket.on("data", received);
    socket.write(request(proxy, to));
  });
}

function request({ credentials }: HttpProxy, to: HostPort): string {
  const target = formatHostPort(to);
  const basic = credentials && Buffer.from(credentials.reveal()).toString("base64");
  return [
    `CONNECT ${target} HTTP/1.1`,
    `Host: ${target}`,
    ...(basic === undefined ? [] : [`Proxy-Authorization: Basic ${basic}`]),
    "\r\n",
  ].join("\r\n");
}
