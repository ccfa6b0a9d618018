import { closesConnection, describeCode } from "../protocol/at-error.js";
import type { AtSign } from "../protocol/at-sign.js";
import type { Refusal } from "./refusal.js";
import { peerOf, type Session } from "./session.js";

export type Reply =
  /** `data:<payload>`; with `blank`, a blank stands before the payload (`stats`, `notify:all`). */
  | { readonly type: "data"; readonly payload: string | null; readonly blank?: true }
  /** `@bob@`, the answer to `pol`: no `data:`, no newline. */
  | { readonly type: "handshake" }
  /** `monitor` answers with nothing at all. */
  | { readonly type: "nothing" }
  /** No answer, and the connection ends. */
  | { readonly type: "leave" };

export const data = (payload: string | null): Reply => ({ type: "data", payload });
export const json = (value: unknown): Reply => data(JSON.stringify(value));

/** Bytes for the wire: a reply and its prompt, to go out in one write (spec 2.3). */
export function renderReply(reply: Reply, session: Session, self: AtSign): string {
  switch (reply.type) {
    case "data": {
      const payload = reply.payload ?? "null";
      const word = payload.startsWith("data:") ? "" : reply.blank ? "data: " : "data:";
      return `${word}${payload}\n${promptOf(session, self)}`;
    }
    case "handshake":
      return promptOf(session, self);
    case "nothing":
    case "leave":
      return "";
  }
}

function promptOf(session: Session, self: AtSign): string {
  if (session.omitPrompt) return "";
  if (session.authentication) return `${self}@`;
  return session.peer === undefined ? "@" : `${session.peer}@`;
}

/** On a peer's connection the prompt after an error is `@` (spec 2.2). */
export function renderRefusal(refusal: Refusal, session: Session, self: AtSign): string {
  const { code, message } = refusal;
  const prompt = peerOf(session) === undefined ? promptOf(session, self) : "@";
  if (refusal.colonForm) return `error:${code}:${message}\n${prompt}`;
  const text = oneLine(session.authentication ? `${describeCode(code)} : ${message}` : unauthenticatedText(refusal));
  if (!session.jsonErrors) return `error:${code}-${text}\n${prompt}`;
  return `error:${JSON.stringify({ errorCode: code, errorDescription: text })}\n${prompt}`;
}

const unauthenticatedText = ({ code, message }: Refusal): string =>
  code === "AT0002" ? message : `Exception: ${message}`;

/** Clients that read by line would take the second line of an error for the next answer (spec 7.3). */
const oneLine = (text: string): string => text.replaceAll(/[\r\n]+/gu, " ");

export const closesAfter = (refusal: Refusal): boolean => refusal.closes ?? closesConnection(refusal.code);
