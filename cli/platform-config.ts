import { readFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { parse as parseToml, TomlError } from "smol-toml";
import * as v from "valibot";
import { nearest } from "../agent/config/nearest.js";
import type { PlatformOptions } from "../atplatform/server/platform.js";
import type { AtServerSettings } from "../atplatform/server/settings.js";
import { parseDirectoryAddress } from "../atplatform/transport/directory.js";
import { codeOf, EdgeError } from "../core/errors.js";

/** The configuration of a platform cannot be used; the message has every fault with its place. */
export class PlatformConfigInvalid extends EdgeError {
  override readonly code: string = "CONFIG_INVALID";
}

const port = (min: number) => v.pipe(v.number(), v.integer(), v.minValue(min), v.maxValue(65_535));
const count = v.pipe(v.number(), v.integer(), v.minValue(1));
const text = v.pipe(v.string(), v.nonEmpty());

/** All optional; what the options do is said in docs/reference/platform.md. */
const schema = v.strictObject({
  state: v.optional(text),
  host: v.optional(text),
  bind: v.optional(text),
  directoryPort: v.optional(port(0)),
  portRange: v.optional(v.pipe(v.string(), v.regex(/^\d{1,5}-\d{1,5}$/u, 'two ports, e.g. "6465-6564"'))),
  sharedPort: v.optional(port(1)),
  certFile: v.optional(text),
  keyFile: v.optional(text),
  caFile: v.optional(text),
  directory: v.optional(text),
  metricsPort: v.optional(port(1)),
  limits: v.optional(
    v.strictObject({
      inboundMax: v.optional(count),
      outboundMax: v.optional(count),
      unauthenticatedIdleMs: v.optional(count),
      authenticatedIdleMs: v.optional(count),
      notificationExpiryMs: v.optional(count),
      enrollRequestsMax: v.optional(count),
      enrollRequestsPerAddressMax: v.optional(count),
      enrollTimeFrameMs: v.optional(count),
    }),
  ),
  autoNotify: v.optional(v.boolean()),
  clientCertificateRequired: v.optional(v.boolean()),
  testingMode: v.optional(v.boolean()),
});

export interface PlatformConfig extends Omit<PlatformOptions, "stateDir"> {
  readonly stateDir?: string;
  readonly metricsPort?: number;
}

/** @throws {PlatformConfigInvalid} */
export async function loadPlatformConfig(file: string): Promise<PlatformConfig> {
  const folder = dirname(resolve(file));
  const content = await readFile(file, "utf8").catch((cause: unknown) => {
    throw new PlatformConfigInvalid(`${file} cannot be read (${codeOf(cause) ?? "unknown error"})`, { cause });
  });
  const parsed = v.safeParse(schema, readToml(content, file));
  if (!parsed.success) throw new PlatformConfigInvalid(parsed.issues.map((issue) => fault(issue)).join("\n"));
  return await toOptions(parsed.output, folder);
}

function readToml(content: string, file: string): unknown {
  try {
    return parseToml(content);
  } catch (cause) {
    if (!(cause instanceof TomlError)) throw cause;
    throw new PlatformConfigInvalid(`${file}, line ${cause.line}, column ${cause.column}: ${cause.message}`, { cause });
  }
}

async function toOptions(file: v.InferOutput<typeof schema>, folder: string): Promise<PlatformConfig> {
  const { state, host, bind, directoryPort, portRange, sharedPort, certFile, keyFile, caFile, directory, metricsPort } =
    file;
  if ((certFile === undefined) !== (keyFile === undefined)) {
    throw new PlatformConfigInvalid("certFile and keyFile go together");
  }
  const { limits, autoNotify, clientCertificateRequired, testingMode } = file;
  const settings: Partial<AtServerSettings> = given({ ...limits, autoNotify, clientCertificateRequired, testingMode });
  const [first = 0, last = 0] = portRange?.split("-").map(Number) ?? [];
  return {
    ...given({ host, bind, directoryPort, sharedPort, metricsPort }),
    settings,
    ...(state !== undefined && { stateDir: resolve(folder, state) }),
    ...(portRange !== undefined && { portRange: { first, last } }),
    ...(certFile !== undefined &&
      keyFile !== undefined && {
        certificate: { certFile: resolve(folder, certFile), keyFile: resolve(folder, keyFile) },
      }),
    ...(caFile !== undefined && { extraCaPem: await readCa(resolve(folder, caFile)) }),
    ...(directory !== undefined && { directory: parseDirectoryAddress(directory) }),
  };
}

async function readCa(file: string): Promise<string> {
  const pem = await readFile(file, "utf8").catch((cause: unknown) => {
    throw new PlatformConfigInvalid(`caFile: ${file} cannot be read (${codeOf(cause) ?? "unknown error"})`, { cause });
  });
  if (!pem.includes("-----BEGIN CERTIFICATE-----")) throw new PlatformConfigInvalid(`caFile: ${file} is no PEM file`);
  return pem;
}

type Given<T> = { [Name in keyof T]?: Exclude<T[Name], undefined> };

/** Without the members that are not there. */
const given = <T extends object>(value: T): Given<T> =>
  Object.fromEntries(Object.entries(value).filter(([, member]) => member !== undefined)) as Given<T>;

function fault(issue: v.BaseIssue<unknown>): string {
  const path = v.getDotPath(issue) ?? "";
  if (issue.type === "strict_object") {
    const name = path.slice(path.lastIndexOf(".") + 1);
    const known = path.startsWith("limits.")
      ? Object.keys(schema.entries.limits.wrapped.entries)
      : Object.keys(schema.entries);
    const near = nearest(name, known);
    return `${path}: unknown key${near === undefined ? "" : `, did you mean ${near}?`}`;
  }
  return `${path}: expected ${issue.expected ?? issue.message}, got ${issue.received}`;
}
