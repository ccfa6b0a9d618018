import * as v from "valibot";

/** A valibot step that runs a parser of ours. The fault's text is `expected`, or else what the parser throws. */
export function parseWith<T>(parse: (text: string) => T, expected?: string): v.RawTransformAction<string, T> {
  return v.rawTransform(({ dataset, addIssue, NEVER }) => {
    try {
      return parse(dataset.value);
    } catch (error) {
      addIssue({ message: expected ?? (error instanceof Error ? error.message : String(error)) });
      return NEVER;
    }
  });
}
