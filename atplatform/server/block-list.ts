import type { AtSign } from "../protocol/at-sign.js";
import type { SettingStore } from "./store/setting-store.js";

/** The atSigns that may not connect, in the order they were added; `undefined`: there is no list (spec 3.23). */
export function blockList(settings: SettingStore): readonly string[] | undefined {
  const text = settings.get("block_list");
  return text === undefined ? undefined : (JSON.parse(text) as string[]); // written by setBlockList only
}

/** To be called inside a write. An empty list is no list. */
export function setBlockList(settings: SettingStore, atSigns: readonly string[]): void {
  if (atSigns.length === 0) settings.remove("block_list");
  else settings.set("block_list", JSON.stringify(atSigns));
}

export const isBlocked = (settings: SettingStore, atSign: AtSign): boolean =>
  blockList(settings)?.includes(atSign) ?? false;
