import { SyntaxInvalid } from "../../core/errors.js";

export interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** `name:port`, `1.2.3.4:port` or `[::1]:port`. @throws {SyntaxInvalid} */
export function parseHostPort(text: string, defaultPort?: number): HostPort {
  const match = /^(?:\[(?<ipv6>[0-9A-Fa-f:.]+)\]|(?<name>[^\s:@/[\]]+))(?::(?<port>\d{1,5}))?$/u.exec(text);
  const host = match?.groups?.ipv6 ?? match?.groups?.name;
  const port = match?.groups?.port === undefined ? defaultPort : Number(match.groups.port);
  if (host === undefined || port === undefined || port < 1 || port > 65_535) {
    throw new SyntaxInvalid(`expected host:port, got ${JSON.stringify(text.slice(0, 80))}`);
  }
  return { host, port };
}

export const formatHostPort = ({ host, port }: HostPort): string =>
  host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
