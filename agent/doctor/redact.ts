import { readFile } from "node:fs/promises";
import type { AgentConfig } from "../config/parse.js";

/** What a value is called that nobody else is to see. Fingerprints and names of files are for everybody. */
const SECRET_NAME = /pass(?:word|phrase|code)?|secret|token|psk|credential|private|auth/iu;
const REMOVED = "[removed]";

/** The configuration without what may be a secret: such members, arguments of programs, logins in addresses. */
export function redactedConfig(config: AgentConfig): unknown {
  return redacted(config, "");
}

function redacted(value: unknown, name: string): unknown {
  if (typeof value === "string") return withoutLogin(isSecret(name) ? REMOVED : value);
  if (Array.isArray(value)) {
    if (name === "args" && value.length > 0) return [`${value.length} arguments ${REMOVED}`];
    return value.map((inner: unknown) => redacted(inner, name));
  }
  if (typeof value !== "object" || value === null) return isSecret(name) && value !== null ? REMOVED : value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, redacted(inner, key)]));
}

/** `passwordFile` names a file, which is no secret. */
const isSecret = (name: string): boolean => SECRET_NAME.test(name) && !/file$/iu.test(name);

const withoutLogin = (text: string): string => text.replaceAll(/(?<=:\/\/)[^\s/@]*@/gu, `${REMOVED}@`);

/**
 * Takes out of any text what is known to be secret, and what looks like it: keys in PEM, long runs of base64, logins in
 * addresses. Rather too much than too little: what is left has to be enough to find a fault, no more.
 */
export function scrubber(secrets: readonly string[]): (text: string) => string {
  const known = [...new Set(secrets)]
    .filter((secret) => secret.length >= LEAST_SECRET)
    .sort((a, b) => b.length - a.length);
  return (text) => {
    let clean = text;
    for (const secret of known) clean = clean.replaceAll(secret, REMOVED);
    return withoutLogin(
      clean
        .replaceAll(/-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)/gu, REMOVED)
        .replaceAll(/(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{40,}={0,2}/gu, (run) =>
          /^[0-9a-f]+$/u.test(run) ? run : REMOVED,
        ),
    );
  };
}

/** A shorter one would tear texts apart that have nothing to do with it; no password should be. */
const LEAST_SECRET = 4;
const MAX_FILE_BYTES = 65_536;

/** Everything secret that the configuration leads to, as far as it can be read. */
export async function secretsOf(config: AgentConfig): Promise<string[]> {
  const secrets: string[] = [];
  const files = [config.keys, `${config.keys}.next`, `${config.keys}.old`, `${config.keys}.next.pending`];
  for (const text of await Promise.all(files.map(read))) secrets.push(...texts(parsed(text)));
  for (const text of await Promise.all(secretFiles(config).map(read)))
    if (text !== undefined) secrets.push(text.trim());
  return secrets;
}

/** Files whose names stand under `…PassphraseFile`, `passwordFile` and their like, and keys for certificates. */
function secretFiles(value: unknown): string[] {
  if (Array.isArray(value)) return value.flatMap(secretFiles);
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([name, inner]) =>
    typeof inner === "string" && inner.startsWith("/") && (SECRET_NAME.test(name) || /key(?:file)?$/iu.test(name))
      ? [inner]
      : secretFiles(inner),
  );
}

async function read(file: string): Promise<string | undefined> {
  return await readFile(file, "utf8").then(
    (text) => (text.length <= MAX_FILE_BYTES ? text : undefined),
    () => undefined,
  );
}

function parsed(text: string | undefined): unknown {
  try {
    return text === undefined ? undefined : JSON.parse(text);
  } catch {
    return text;
  }
}

/** Long texts in a value; ids and names are short, or for everybody. */
function texts(value: unknown): string[] {
  if (typeof value === "string") return value.length >= 40 ? [value] : [];
  if (typeof value !== "object" || value === null) return [];
  return Object.values(value).flatMap(texts);
}
