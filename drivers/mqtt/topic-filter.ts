import { SyntaxInvalid } from "../../core/errors.js";

/** A parsed topic filter, MQTT 3.1.1 and 5, section 4.7; `$share/group/` before it is part of `filter` only. */
export interface TopicFilter {
  readonly filter: string;
  readonly levels: readonly string[];
}

const SHARED = /^\$share\/[^/+#]+\/(?<inner>.+)$/u;

/** @throws {SyntaxInvalid} on misplaced wildcards and NUL. */
export function parseTopicFilter(filter: string): TopicFilter {
  const levels = (SHARED.exec(filter)?.groups?.["inner"] ?? filter).split("/");
  const valid = levels.every(
    (level, index) =>
      level === "+" || (level === "#" && index === levels.length - 1) || (!/[+#\0]/u.test(level) && filter !== ""),
  );
  if (!valid || filter.length > 1024)
    throw new SyntaxInvalid("expected a topic, where + is one level and a last # the rest");
  return { filter, levels };
}

/** @throws {SyntaxInvalid} on a topic that nobody may publish to. */
export function parseTopic(topic: string): string {
  if (topic === "" || topic.length > 1024 || /[+#\0]/u.test(topic)) {
    throw new SyntaxInvalid("expected a topic without + and #");
  }
  return topic;
}

/** What each wildcard stands for in the topic, in order, or `undefined` when the filter does not cover it. */
export function captures({ levels }: TopicFilter, topic: string): readonly string[] | undefined {
  const parts = topic.split("/");
  // Section 4.7.2: a wildcard in the first place does not reach topics that begin with $.
  if (topic.startsWith("$") && (levels[0] === "+" || levels[0] === "#")) return undefined;
  const found: string[] = [];
  for (const [index, level] of levels.entries()) {
    const part = parts[index];
    if (level === "#") return [...found, parts.slice(index).join("/")];
    if (part === undefined || (level !== "+" && level !== part)) return undefined;
    if (level === "+") found.push(part);
  }
  return parts.length === levels.length ? found : undefined;
}

/** Replaces `{1}`, `{2}` … by captures, made fit by `fit`. */
export function withCaptures(text: string, found: readonly string[], fit: (part: string) => string): string {
  return text.replaceAll(/\{(\d)\}/gu, (whole, place: string) => {
    const part = found[Number(place) - 1];
    return part === undefined ? whole : fit(part);
  });
}
