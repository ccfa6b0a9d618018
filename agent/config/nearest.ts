/** The known word that is closest to `word`, when it is close enough to have been meant. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const limit = Math.max(2, Math.min(5, Math.floor(word.length / 3)));
  let best: string | undefined;
  let least = limit + 1;
  for (const candidate of known) {
    const steps = distance(fold(word), fold(candidate));
    if (steps < least) [best, least] = [candidate, steps];
  }
  return best;
}

/** `interval_ms` and `intervalMs` are the same word to a person. */
function fold(word: string): string {
  return word.slice(0, 64).toLowerCase().replace(/[_-]/gu, "");
}

/** Levenshtein distance: letters to insert, delete or replace. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const [above = 0, left = 0, corner = 0] = [row[j], next[j - 1], row[j - 1]];
      next.push(Math.min(above + 1, left + 1, corner + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row.at(-1) ?? 0;
}
