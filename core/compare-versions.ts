/** What a version looks like: up to four numbers, and a suffix that does not count. */
export const VERSION_TEXT = /^\d{1,9}(?:\.\d{1,9}){0,3}(?:[-+~][A-Za-z0-9.+~-]{1,40})?$/u;

/** Negative when `a` is the earlier version. Numbers count, suffixes do not. */
export function compareVersions(a: string, b: string): number {
  const numbers = (text: string): number[] => text.split(/[-+~]/u, 1)[0]?.split(".").map(Number) ?? [];
  const [left, right] = [numbers(a), numbers(b)];
  for (let at = 0; at < Math.max(left.length, right.length); at += 1) {
    const difference = (left[at] ?? 0) - (right[at] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}
