import { EdgeError } from "../../core/errors.js";

export interface RefusalOptions extends ErrorOptions {
  /** The connection ends after the answer; by default what {@link closesConnection} says of the code. */
  readonly closes?: boolean;
  /** `error:AT0026:text` instead of `error:AT0026-text`: the state of an enrolment (spec 2.3). */
  readonly colonForm?: boolean;
}

/** A command is answered with `error:`. `message` is what the peer reads, without the words of the code. */
export class Refusal extends EdgeError {
  override readonly code: string;
  readonly closes: boolean | undefined;
  readonly colonForm: boolean;

  constructor(code: string, message: string, options: RefusalOptions = {}) {
    super(message, options);
    this.code = code;
    this.closes = options.closes;
    this.colonForm = options.colonForm ?? false;
  }
}

export const keyNotFound = (name: string): Refusal => new Refusal("AT0015", `${name} does not exist in keystore`);

/** What the reference gives a text but no code: it ends as AT0011 and leaves the connection open (spec 7.2). */
export const refused = (message: string): Refusal => new Refusal("AT0011", message);

/** A malformed argument: where the reference fails with an unexpected exception and closes, we answer and stay open. */
export const illegalArgument = (message: string): Refusal => new Refusal("AT0022", message);

export const invalidSyntax = (message: string): Refusal => new Refusal("AT0003", message);
