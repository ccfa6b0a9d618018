// A chat of two, over notifications. Run it twice: `AT_SIGN=@alice PEER=@bob`, and the other way round.
import { createInterface } from "node:readline";
import { atKeysPath, openAtClient, parseAtSign, parseDirectoryAddress, readAtKeysFile } from "atedge/atplatform";

const atSign = parseAtSign(process.env["AT_SIGN"] ?? "");
const peer = parseAtSign(process.env["PEER"] ?? "");
const directory = parseDirectoryAddress(process.env["AT_DIRECTORY"] ?? "root.atsign.org:64");
const keys = await readAtKeysFile(atKeysPath(atSign));
const stop = new AbortController();
const client = await openAtClient({ atSign, keys, directory }, stop.signal);

async function listen(): Promise<void> {
  const options = { regex: "^@[^:]+:chat\\.demo@", since: "live" } as const;
  for await (const message of client.subscribe(options, stop.signal)) {
    if (message.from !== peer) continue; // anybody can send us something
    const { text } = await message.decrypt(stop.signal);
    console.log(`${message.from}: ${text}`);
  }
}

const listening = listen();
for await (const line of createInterface({ input: process.stdin })) {
  if (line === "") continue;
  await client.notify({ to: peer, key: "chat.demo", value: line, ttlnMs: 86_400_000 }, stop.signal);
}
stop.abort();
await listening;
await client[Symbol.asyncDispose]();
