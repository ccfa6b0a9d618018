import type { AtSign } from "../../protocol/at-sign.js";
import { config, type Config } from "../../protocol/verbs/config.js";
import { isManagerSession, notAuthorised } from "../authorise.js";
import { blockList, setBlockList } from "../block-list.js";
import { refreshCopies } from "../jobs.js";
import { illegalArgument, Refusal } from "../refusal.js";
import { data, json, type Reply } from "../reply.js";
import type { Services } from "../services.js";
import { defaultSettings, type AtServerSettings } from "../settings.js";
import { verb } from "../verb.js";

/** `config`: the list of atSigns that may not connect, and settings for tests. For managers. */
export const configVerb = verb(config, true, async (command, { session }, services) => {
  const { enrollments, clock } = services;
  if (!isManagerSession(session, enrollments, clock.now())) throw notAuthorised(session, "change the configuration");
  switch (command.action) {
    case "block-show": {
      const list = blockList(services.settingStore);
      return list === undefined ? data(null) : json(list);
    }
    case "block-add":
      return await block(command.atSigns, services);
    case "block-remove":
      return await unblock(command.atSigns, services);
    case "set":
    case "reset":
    case "print":
      return await changeSetting(command, services);
  }
});

async function block(atSigns: readonly AtSign[], { self, commits, settingStore }: Services): Promise<Reply> {
  await commits.write(() => {
    const list = new Set(blockList(settingStore));
    for (const atSign of atSigns) if (atSign !== self) list.add(atSign);
    setBlockList(settingStore, [...list]);
  });
  return data("success");
}

async function unblock(atSigns: readonly AtSign[], { commits, settingStore }: Services): Promise<Reply> {
  const removed = await commits.write(() => {
    const list = blockList(settingStore);
    if (list)
      setBlockList(
        settingStore,
        list.filter((atSign) => !(atSigns as readonly string[]).includes(atSign)),
      );
    return list !== undefined;
  });
  return data(removed ? "success" : null);
}

/** Names of the reference, what they set here, and in which unit they are given. */
const NUMBERS: Readonly<Record<string, readonly [keyof AtServerSettings, factor: number]>> = {
  inboundMaxLimit: ["inboundMax", 1],
  notificationKeyStoreCompactionFrequencyMins: ["notificationJobMs", 60_000],
  maxNotificationRetries: ["deliveryAttemptsMax", 1],
  maxRequestsPerTimeFrame: ["enrollRequestsMax", 1],
  timeFrameInMills: ["enrollTimeFrameMs", 1],
};
/** Known to clients of the reference, without a meaning here: our log needs no compaction, certificates reload by themselves. */
const WITHOUT_EFFECT: ReadonlySet<string> = new Set([
  "commitLogCompactionFrequencyMins",
  "accessLogCompactionFrequencyMins",
  "checkCertificateReload",
  "shouldReloadCertificates",
]);

async function changeSetting(command: Extract<Config, { name: string }>, services: Services): Promise<Reply> {
  const { settings, changeSettings } = services;
  if (!settings.testingMode) return data("testing mode disabled by default");
  const { action, name } = command;
  if (WITHOUT_EFFECT.has(name)) return data(action === "print" ? "null" : "ok");
  if (name === "doCacheRefreshNow") {
    if (action === "set" && command.value === "true") await refreshCopies(services);
    return data(action === "print" ? "false" : "ok");
  }
  const number = NUMBERS[name];
  if (name !== "autoNotify" && !number) throw new Refusal("AT0010", `unknown configuration name ${name}`);
  const field = number ? number[0] : "autoNotify";
  const factor = number ? number[1] : 1;
  if (action === "print") {
    const value = settings[field];
    return data(String(typeof value === "number" ? value / factor : value));
  }
  const given = command.action === "set" ? command.value : undefined;
  const value = given === undefined ? defaultSettings[field] : parseValue(given, number !== undefined, factor);
  changeSettings({ [field]: value });
  return data("ok");
}

function parseValue(text: string, isNumber: boolean, factor: number): number | boolean {
  if (!isNumber) return text.toLowerCase() === "true";
  const value = Number(text);
  if (!/^\d{1,12}$/u.test(text))
    throw illegalArgument(`expected a whole number, got ${JSON.stringify(text.slice(0, 20))}`);
  return value * factor;
}
