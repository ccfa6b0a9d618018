/** Whether a name fits a pattern in which each `*` stands for any text. */
export function globOf(pattern: string): (name: string) => boolean {
  if (!pattern.includes("*")) return (name) => name === pattern;
  const escaped = pattern.split("*").map((part) => part.replaceAll(/[\\^$.*+?()[\]{}|/]/gu, "\\$&"));
  const expression = new RegExp(`^${escaped.join(".*")}$`, "su");
  return (name) => expression.test(name);
}
