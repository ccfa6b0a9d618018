import { EdgeError } from "../../core/errors.js";

/** What a caller can do about it: fix the request, wait and retry, log in again, stop and tell a human, or take it as an answer. */
export type Remedy = "fix" | "wait" | "login" | "stop" | "answer";

interface CodeFacts {
  /** Stands before the message on authenticated connections. */
  readonly description: string;
  readonly remedy: Remedy;
  /** The reference atServer closes the connection after this answer. */
  readonly closes?: true;
}

/** atserver.md, 7.1, and client.md, Appendix B. */
const CODES: Readonly<Record<string, CodeFacts>> = {
  AT0001: { description: "Server exception", remedy: "wait" },
  AT0002: { description: "DataStore exception", remedy: "wait", closes: true },
  AT0003: { description: "Invalid syntax", remedy: "fix" },
  AT0004: { description: "Socket error", remedy: "wait" },
  AT0005: { description: "Buffer limit exceeded", remedy: "fix", closes: true },
  AT0006: { description: "Outbound connection limit exceeded", remedy: "wait" },
  AT0007: { description: "Secondary server not found", remedy: "wait" },
  AT0008: { description: "Handshake failure", remedy: "wait" },
  AT0009: { description: "UnAuthorized client in request", remedy: "fix" },
  AT0010: { description: "Internal server error", remedy: "wait" },
  AT0011: { description: "Internal server exception", remedy: "wait" },
  AT0012: { description: "Inbound connection limit exceeded", remedy: "wait", closes: true },
  AT0013: { description: "Connection Exception", remedy: "stop", closes: true },
  AT0014: { description: "Unknown AtClient exception", remedy: "fix" },
  AT0015: { description: "key not found", remedy: "answer" },
  AT0016: { description: "Invalid key", remedy: "fix" },
  AT0021: { description: "Unable to connect to secondary", remedy: "wait" },
  AT0022: { description: "Illegal arguments", remedy: "fix" },
  AT0023: { description: "Timeout waiting for response", remedy: "wait" },
  AT0024: { description: "Server is paused", remedy: "wait", closes: true },
  AT0025: { description: "Apkam Auth Denied", remedy: "stop" },
  AT0026: { description: "Apkam Auth Failed", remedy: "wait" }, // the enrolment is pending
  AT0027: { description: "Apkam Access Revoked", remedy: "stop" },
  AT0028: { description: "Too Many Requests", remedy: "stop" }, // sent for an expired or unknown enrolment
  AT0029: { description: "Apkam Enrollment Expired", remedy: "stop" },
  AT0030: { description: "Invalid Enrollment Status", remedy: "stop" },
  AT0031: { description: "Cannot revoke self enrollment", remedy: "fix" },
  AT0401: { description: "Client authentication failed", remedy: "login" },
};

/** The generic words for a code, e.g. `key not found`. A code that is not in the table reads as AT0011. */
export const describeCode = (code: string): string => CODES[code]?.description ?? "Internal server exception";

/** Whether the reference atServer closes the connection after a reply with this code. */
export const closesConnection = (code: string): boolean => CODES[code]?.closes ?? false;

/**
 * An `error:` reply: a peer answered it, or our own atServer is about to. `code` is kept as it was sent, even when this
 * version does not know it; `UNKNOWN` stands for a reply without one.
 */
export class AtServerError extends EdgeError {
  override readonly code: string;
  readonly remedy: Remedy;
  /** What followed the code, e.g. `key not found : phone@alice does not exist in keystore`. */
  readonly description: string;

  constructor(code: string, description: string, options?: ErrorOptions) {
    super(`${code}: ${description}`, options);
    this.code = code;
    this.description = description;
    this.remedy = CODES[code]?.remedy ?? "wait";
  }
}

const CODE = /^(AT\d{4})[-:]/u;

/**
 * Reads what follows `error:`. Three shapes are in use: `AT0015-text`, `AT0026:text` (enrolment states) and
 * `{"errorCode":"AT0015","errorDescription":"text"}`. Anything else is an error too, of code `UNKNOWN`.
 */
export function parseAtError(body: string): AtServerError {
  const text = body.trim();
  const json = text.startsWith("{") ? parseJsonError(text) : undefined;
  if (json) return json;
  const code = CODE.exec(text)?.[1];
  return code === undefined ? new AtServerError("UNKNOWN", text) : new AtServerError(code, text.slice(code.length + 1));
}

function parseJsonError(text: string): AtServerError | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null || !("errorCode" in value)) return undefined;
  if (typeof value.errorCode !== "string") return undefined;
  const description = "errorDescription" in value ? value.errorDescription : "";
  return new AtServerError(value.errorCode, typeof description === "string" ? description : "");
}
