/**
 * Wear of an eMMC or of an SD card that tells it, percent of its life at most: `life_time` has a value for each of two
 * kinds of cells, in steps of 10 %, 0x0B for past the end (JEDEC JESD84-B51, EXT_CSD[268] and [269]). 0 is not told.
 */
export function parseLifeTime(text: string): number | undefined {
  const steps = /^0x(?<a>[0-9a-f]{2}) 0x(?<b>[0-9a-f]{2})\s*$/iu.exec(text)?.groups;
  const step = Math.max(parseInt(steps?.["a"] ?? "0", 16), parseInt(steps?.["b"] ?? "0", 16));
  return step >= 1 && step <= 11 ? step * 10 : undefined;
}

/** Use of the spare blocks (EXT_CSD[267]): 1 normal, 2 four fifths are used, 3 urgent; else it is not told. */
export function parsePreEol(text: string): number | undefined {
  const level = /^0x0(?<level>[123])\s*$/u.exec(text)?.groups?.["level"];
  return level === undefined ? undefined : Number(level);
}

/** Bytes written to a block device since boot: its 7th field counts sectors of 512 (Documentation/block/stat.rst). */
export function parseWrittenBytes(stat: string): number | undefined {
  const fields = stat.trim().split(/\s+/u);
  const sectors = fields[6] ?? "";
  return fields.length >= 11 && /^\d{1,15}$/u.test(sectors) ? Number(sectors) * 512 : undefined;
}

/** Whether the file system of a folder is mounted for reading only, as ext4 is after an error of the disk. */
export function parseReadOnly(mounts: string, folder: string): boolean | undefined {
  const options = mounts
    .split("\n")
    .map((line) => line.split(" "))
    .findLast(([, where]) => where?.replaceAll("\\040", " ") === folder)?.[3];
  return options?.split(",").includes("ro");
}

/** Bits of the firmware's answer; the same 16 places up: since boot. Raspberry Pi documentation, `vcgencmd get_throttled`. */
const THROTTLED = { undervoltage: 0, frequencyCapped: 1, throttled: 2, temperatureLimit: 3 } as const;

/** What slows a Raspberry Pi down, now and since boot. */
export function parseThrottled(text: string): { readonly name: string; readonly value: boolean }[] {
  const bits = /^(?:0x)?(?<bits>[0-9a-f]{1,8})\s*$/iu.exec(text)?.groups?.["bits"];
  if (bits === undefined) return [];
  const isSet = (bit: number): boolean => ((parseInt(bits, 16) >>> bit) & 1) === 1;
  return Object.entries(THROTTLED).flatMap(([name, bit]) => [
    { name, value: isSet(bit) },
    { name: `${name}SinceBoot`, value: isSet(bit + 16) },
  ]);
}
