// A chat of two that keeps its history: each line is a record shared with the peer, so nobody needs to be there when it
// is written. Prints what there is, then what comes. `AT_SIGN=@alice PEER=@bob`, and the other way round.
import { createInterface } from "node:readline";
import { atKeysPath, openAtClient, parseAtSign, parseDirectoryAddress, readAtKeysFile } from "atedge/atplatform";

const atSign = parseAtSign(process.env["AT_SIGN"] ?? "");
const peer = parseAtSign(process.env["PEER"] ?? "");
const directory = parseDirectoryAddress(process.env["AT_DIRECTORY"] ?? "root.atsign.org:64");
const keys = await readAtKeysFile(atKeysPath(atSign));
const stop = new AbortController();
const client = await openAtClient({ atSign, keys, directory }, stop.signal);
const shown = new Set<string>();

async function showNew(): Promise<void> {
  const names = await client.scan({ of: peer, regex: "line\\d+\\.history@" }, stop.signal);
  for (const name of names.map((name) => name.replace(/^.*:|@.*$/gu, "")).sort()) {
    if (shown.has(name)) continue;
    shown.add(name);
    const record = await client.get({ key: name, by: peer }, {}, stop.signal);
    if (record) console.log(`${peer} at ${name.slice(4, 17)}: ${record.value ?? ""}`);
  }
}

async function keepShowing(): Promise<void> {
  while (!stop.signal.aborted) {
    await showNew();
    await new Promise((resolve) => setTimeout(resolve, 1_000));
  }
}

const showing = keepShowing().catch((error: unknown) => stop.signal.aborted || Promise.reject(error as Error));
for await (const line of createInterface({ input: process.stdin })) {
  if (line !== "") await client.put({ key: `line${Date.now()}.history`, for: peer }, line, {}, stop.signal);
}
stop.abort();
await showing;
await client[Symbol.asyncDispose]();
