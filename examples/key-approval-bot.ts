// Approves new devices of an atSign that are expected, and no others. EXPECTED is a JSON file that was made by hand or by
// a factory: what each device has shown on its own display or serial line, since a passcode alone proves little.
//   [{ "appName": "agent", "deviceName": "north", "namespaces": { "north.atedge": "rw" }, "fingerprint": "sha256:…" }]
// It ends when all of them are approved, or after MINUTES (60).
import { readFile } from "node:fs/promises";
import { isDeepStrictEqual } from "node:util";
import { atKeysPath, openAtClient, parseAtSign, parseDirectoryAddress, readAtKeysFile } from "atedge/atplatform";

interface Expected {
  readonly appName: string;
  readonly deviceName: string;
  readonly namespaces: Readonly<Record<string, string>>;
  readonly fingerprint: string;
}

const atSign = parseAtSign(process.env["AT_SIGN"] ?? "");
const directory = parseDirectoryAddress(process.env["AT_DIRECTORY"] ?? "root.atsign.org:64");
const expected = JSON.parse(await readFile(process.env["EXPECTED"] ?? "expected.json", "utf8")) as readonly Expected[];
const keys = await readAtKeysFile(atKeysPath(atSign)); // of the first device, which may manage others
const signal = AbortSignal.timeout(Number(process.env["MINUTES"] ?? 60) * 60_000);
const client = await openAtClient({ atSign, keys, directory }, signal);
const waitedFor = new Set(expected);

for await (const request of client.enrollments.requests(signal)) {
  const { id, appName, deviceName, namespaces } = request;
  const match = [...waitedFor].find(
    (each) =>
      each.appName === appName &&
      each.deviceName === deviceName &&
      each.fingerprint === request.fingerprint &&
      isDeepStrictEqual({ ...namespaces }, each.namespaces),
  );
  if (match) {
    await client.enrollments.approve({ id }, { fingerprint: match.fingerprint }, signal);
    waitedFor.delete(match);
  }
  console.log(match ? "approved" : "left alone", appName, deviceName, id);
  if (waitedFor.size === 0) break;
}
await client[Symbol.asyncDispose]();
