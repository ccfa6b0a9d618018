import { parseJson } from "../../messages/json-field.js";

/**
 * What a change of keys is called, for both sides of it. A board's enrolment is `atedge` on `north`; as an atServer takes
 * no second one of that name while the first is there, those that follow are `atedge-r2`, `atedge-r3` and so on.
 */
const ROTATED = /^(?<base>.+)-r(?<count>\d{1,6})$/u;

/** `atedge` of `atedge-r3`. */
export const baseApp = (appName: string): string => ROTATED.exec(appName)?.groups?.["base"] ?? appName;

export const isRotated = (appName: string): boolean => ROTATED.test(appName);

export const nextApp = (appName: string): string =>
  `${baseApp(appName)}-r${Number(ROTATED.exec(appName)?.groups?.["count"] ?? 1) + 1}`;

/** Written by the board, for itself and its owner, when it has gone on to the new enrolment. */
export interface Rotation {
  readonly from: string;
  readonly to: string;
}

/** The record's name, by what the enrolment is for: `rotation.north.atedge`. */
export const rotationKey = (namespace: string): string => `rotation.${namespace}`;

export const formatRotation = ({ from, to }: Rotation): string => JSON.stringify({ from, to });

/** @throws {SyntaxInvalid} */
export function parseRotation(text: string): Rotation {
  const fields = parseJson(text, "rotation").object();
  const id = { max: 80, pattern: /^[\w-]+$/u, expected: "an enrolment id" } as const;
  return { from: fields.at("from").text(id), to: fields.at("to").text(id) };
}
