import { readFile, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type AtClient, openAtClient } from "../atplatform/client/at-client.js";
import { atKeysPath, type PassphraseSource, readAtKeysFile } from "../atplatform/crypto/at-keys-file.js";
import { parseAtSign } from "../atplatform/protocol/at-sign.js";
import { parseDirectoryAddress } from "../atplatform/transport/directory.js";
import { codeOf, EdgeError } from "../core/errors.js";
import type { Log } from "../core/log.js";
import type { Disposable } from "../core/scope.js";
import { parseAddress, type DeviceAddress } from "../messages/names.js";
import { OwnKeyGuard } from "../messages/own-key.js";
import { PeerTrust } from "../messages/peer-trust.js";
import { parseFingerprint } from "../messages/pins.js";
import { platformOf } from "./at-client-platform.js";
import { Outbound } from "./outbound.js";
import { defaultStateDir, openPinFile } from "./pin-file.js";
import type { Platform } from "./platform.js";

/** Something that the user gave cannot be used; the message says what to do. */
export class SessionRefused extends EdgeError {
  override readonly code = "SESSION_REFUSED";
}

export interface SessionOptions {
  /** `@owner/device`. */
  readonly subject: string;
  /** Who we are. */
  readonly as: string;
  /** The `.atKeys` file; left out: `~/.atsign/keys/<atSign>_key.atKeys`, where other SDKs keep it too. */
  readonly keys?: string;
  /** Asked for when the key file is sealed with one. */
  readonly passphrase?: PassphraseSource;
  /** `host:port` of the atDirectory. */
  readonly directory: string;
  /** A PEM file with a further root. */
  readonly ca?: string;
  readonly ns: string;
  /** The owner's fingerprint; left out: first use. */
  readonly key?: string;
  /** Folder of the pins; `~/.config/atedge` when left out. */
  readonly state?: string;
  readonly log: Log;
}

/** All that `watch` and `call` need, for one device as one atSign. */
export interface Session extends Disposable {
  readonly owner: string;
  readonly address: DeviceAddress;
  readonly platform: Platform;
  readonly trust: PeerTrust;
  readonly outbound: Outbound;
}

/** @throws {SessionRefused} @throws {EdgeError} of the part that is at fault. */
export async function openSession(options: SessionOptions, signal: AbortSignal): Promise<Session> {
  const { owner, address } = parseSubject(options.subject, options.ns);
  const login = await openLogin(options, signal);
  const configured = new Map(options.key === undefined ? [] : [[owner, parseFingerprint(options.key)]]);
  return { ...login.withDevice(owner, address, configured), [Symbol.asyncDispose]: () => login[Symbol.asyncDispose]() };
}

/** One atSign that we are, for any number of devices. */
export interface Login extends Disposable {
  readonly client: AtClient;
  /** @param configured fingerprints that a human gave, by atSign. */
  withDevice(
    owner: string,
    address: DeviceAddress,
    configured?: ReadonlyMap<string, string>,
  ): Omit<Session, keyof Disposable>;
}

/** @throws {SessionRefused} @throws {EdgeError} of the part that is at fault. */
export async function openLogin(options: Omit<SessionOptions, "subject">, signal: AbortSignal): Promise<Login> {
  const atSign = parseAtSign(options.as);
  const keys = await readKeys(options.keys ?? atKeysPath(atSign), atSign, options.passphrase);
  const ca = options.ca === undefined ? undefined : await readText(options.ca);
  const pinFile = join(options.state ?? defaultStateDir(), "pins.json");
  const remembered = await openPinFile(pinFile);
  const client = await openAtClient(
    {
      atSign,
      keys,
      directory: parseDirectoryAddress(options.directory),
      ...(ca !== undefined && { ca }),
      log: options.log,
    },
    signal,
  );
  const howToAccept = (_: string, name: string): string => `take ${JSON.stringify(name)} out of ${pinFile}`;
  const ownKeys = new OwnKeyGuard({ remembered, howToAccept });
  return {
    client,
    withDevice(owner, address, configured = new Map()) {
      const platform = platformOf(client, keys, address);
      const trust = new PeerTrust({ us: atSign, address, records: platform, configured, remembered, log: options.log });
      const outbound = new Outbound(platform, owner, address, async (aesKey, signal) =>
        ownKeys.check(owner, await trust.keyOf(owner, signal), aesKey),
      );
      return { owner, address, platform, trust, outbound };
    },
    [Symbol.asyncDispose]: () => client[Symbol.asyncDispose](),
  };
}

function parseSubject(text: string, ns: string): { readonly owner: string; readonly address: DeviceAddress } {
  const [owner, device, ...rest] = text.split("/");
  if (!owner || !device || rest.length > 0)
    throw new SessionRefused(`expected @owner/device, such as @greenhouse/north, got ${JSON.stringify(text)}`);
  return { owner: parseAtSign(owner), address: parseAddress(device, ns) };
}

async function readKeys(path: string, atSign: string, passphrase: PassphraseSource | undefined) {
  try {
    const { mode } = await stat(path);
    // systemd's credentials show the mask of their access list as a group's rights.
    const isCredential = dirname(path) === process.env["CREDENTIALS_DIRECTORY"];
    if ((mode & 0o077) !== 0 && !isCredential)
      throw new SessionRefused(`others can read or change ${path}: chmod 600 ${path}`);
    return await readAtKeysFile(path, { passphrase });
  } catch (cause) {
    if (cause instanceof EdgeError) throw cause;
    const hint = codeOf(cause) === "ENOENT" ? `: name the key file of ${atSign} with --keys FILE` : "";
    throw new SessionRefused(`${path} cannot be read (${codeOf(cause) ?? "unknown error"})${hint}`, { cause });
  }
}

async function readText(path: string): Promise<string> {
  return readFile(path, "utf8").catch((cause: unknown) => {
    throw new SessionRefused(`${path} cannot be read (${codeOf(cause) ?? "unknown error"})`, { cause });
  });
}
