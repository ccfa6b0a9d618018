import { LimitExceeded, SyntaxInvalid } from "../core/errors.js";

export type JsonObject = Readonly<Record<string, unknown>>;

/** The longest text of any message, in UTF-8 bytes, `mac` included. */
export const MAX_MESSAGE_BYTES = 262_144;

/** Milliseconds since 1970 of the last instant that a four-digit year can name; no time on the wire is later. */
export const MAX_TIME_MS = 253_402_300_799_999;

/**
 * A JSON value and the place where it stands, so that a refusal can say `telemetry.senml[3].t: expected a number`.
 *
 * Every reading method throws {@link SyntaxInvalid} when the value is of another form, and {@link LimitExceeded} when
 * it is of the right form but too large.
 */
export class JsonField {
  readonly value: unknown;
  readonly path: string;

  constructor(value: unknown, path: string) {
    this.value = value;
    this.path = path;
  }

  /** Refuses the value, saying what was expected in its place. */
  refuse(expected: string): never {
    throw new SyntaxInvalid(`${this.path}: expected ${expected}`);
  }

  object(): JsonFields {
    const { value } = this;
    if (typeof value !== "object" || value === null || Array.isArray(value)) this.refuse("an object");
    return new JsonFields(value as JsonObject, this.path);
  }

  array(limits: { readonly min?: number; readonly max: number }): JsonField[] {
    const { value } = this;
    if (!Array.isArray(value)) this.refuse("an array");
    if (value.length > limits.max) throw new LimitExceeded(`${this.path}: more than ${limits.max} entries`);
    if (value.length < (limits.min ?? 0)) this.refuse(`at least ${limits.min} entries`);
    return value.map((entry: unknown, index) => new JsonField(entry, `${this.path}[${index}]`));
  }

  text(limits: { readonly max: number; readonly pattern?: RegExp; readonly expected?: string }): string {
    const { value } = this;
    if (typeof value !== "string") this.refuse(limits.expected ?? "a text");
    if (value.length > limits.max) throw new LimitExceeded(`${this.path}: longer than ${limits.max} characters`);
    if (limits.pattern && !limits.pattern.test(value)) this.refuse(limits.expected ?? String(limits.pattern));
    return value;
  }

  oneOf<const T extends string>(choices: readonly T[]): T {
    const found = choices.find((choice) => choice === this.value);
    return found ?? this.refuse(choices.map((choice) => `"${choice}"`).join(" or "));
  }

  exactly(expected: string | number): void {
    if (this.value !== expected) this.refuse(JSON.stringify(expected));
  }

  /** A JSON number without a fraction. */
  integer(min: number, max: number): number {
    const { value } = this;
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < min || value > max)
      this.refuse(`an integer from ${min} to ${max}`);
    return value;
  }

  number(): number {
    const { value } = this;
    if (typeof value !== "number" || !Number.isFinite(value)) this.refuse("a number");
    return value;
  }

  boolean(): boolean {
    const { value } = this;
    return typeof value === "boolean" ? value : this.refuse("true or false");
  }

  /** Milliseconds since 1970. */
  timeMs(): number {
    return this.integer(0, MAX_TIME_MS);
  }

  orNull<T>(read: (field: this) => T): T | null {
    return this.value === null ? null : read(this);
  }
}

/** The members of a JSON object; only its own ones count. */
export class JsonFields {
  readonly object: JsonObject;
  readonly path: string;

  constructor(object: JsonObject, path: string) {
    this.object = object;
    this.path = path;
  }

  at(name: string): JsonField {
    return this.optional(name) ?? new JsonField(undefined, this.#pathOf(name)).refuse("a value, it is missing");
  }

  optional(name: string): JsonField | undefined {
    return Object.hasOwn(this.object, name) ? new JsonField(this.object[name], this.#pathOf(name)) : undefined;
  }

  names(): string[] {
    return Object.keys(this.object);
  }

  /** Refuses members that are not named: where authority is given, nothing may be overlooked. */
  only(names: readonly string[]): void {
    for (const name of this.names()) {
      if (!names.includes(name))
        throw new SyntaxInvalid(`${this.path}: unknown member ${JSON.stringify(name.slice(0, 40))}`);
    }
  }

  #pathOf(name: string): string {
    return `${this.path}.${name}`;
  }
}

/** Parses JSON text of at most `maxBytes` of UTF-8. @throws {SyntaxInvalid} @throws {LimitExceeded} */
export function parseJson(text: string, path: string, maxBytes = MAX_MESSAGE_BYTES): JsonField {
  if (Buffer.byteLength(text, "utf8") > maxBytes) throw new LimitExceeded(`${path}: longer than ${maxBytes} bytes`);
  try {
    return new JsonField(JSON.parse(text), path);
  } catch (cause) {
    throw new SyntaxInvalid(`${path}: expected JSON`, { cause });
  }
}
