import * as v from "valibot";
import { ArgumentInvalid } from "./link-errors.js";

const integer = (min: number, max: number) => v.pipe(v.number(), v.integer(), v.minValue(min), v.maxValue(max));

/** Keys of `[driver.firmware]`: without it, no firmware is taken. */
export const firmwareSchema = v.strictObject({
  keys: v.pipe(
    v.array(v.pipe(v.string(), v.regex(/^[A-Za-z0-9+/]{43}=$/u, "expected 32 bytes in base64"))),
    v.minLength(1),
    v.maxLength(8),
    v.description("Ed25519 public keys that may sign firmware for this board, base64."),
    v.examples([["11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="]]),
  ),
  selfTest: v.optional(
    v.pipe(
      v.string(),
      v.description("A command of the board that a good firmware passes, run before a new one is kept."),
      v.examples(["self-test"]),
    ),
  ),
});

export type FirmwareConfig = v.InferOutput<typeof firmwareSchema>;

/** Keys of `type = "link"`. */
export const linkSchema = v.pipe(
  v.strictObject({
    id: v.pipe(
      v.string(),
      v.regex(/^[a-z0-9][a-z0-9_-]{0,29}$/u, "expected a to z, 0 to 9, _ and -, at most 30 characters"),
      v.description("The driver's name: the target of its commands."),
      v.examples(["press"]),
    ),
    type: v.literal("link"),
    path: v.pipe(
      v.string(),
      v.metadata({ file: true }),
      v.nonEmpty(),
      v.description("The port; a name under /dev/serial/by-id survives other sockets."),
      v.examples(["/dev/serial/by-id/usb-Raspberry_Pi_Pico_E66178C1-if00"]),
    ),
    baud: v.optional(v.pipe(integer(1200, 4_000_000), v.description("Bits per second.")), 115_200),
    security: v.optional(
      v.pipe(
        v.picklist(["sealed", "clear"]),
        v.description(
          "`sealed` needs `atedge link pair` once. `clear` is for boards without cryptography: whoever reaches the wire can read and forge.",
        ),
      ),
      "sealed",
    ),
    keepAliveMs: v.optional(
      v.pipe(
        integer(100, 60_000),
        v.description("The board is asked for a sign of life after this silence; after 3.5 times it counts as gone."),
      ),
      2000,
    ),
    commandTimeoutMs: v.optional(
      v.pipe(integer(10, 600_000), v.description("Longest wait for the answer to a command, in milliseconds.")),
      5000,
    ),
    firmware: v.optional(firmwareSchema),
    openTimeoutMs: v.optional(
      v.pipe(
        integer(500, 120_000),
        v.description(
          "Longest wait for the board to open the session and say what it is; a small board needs seconds at the first session.",
        ),
      ),
      15_000,
    ),
  }),
  v.description("A microcontroller on a serial line that speaks the sealed link (docs/reference/link.md)."),
);

export type LinkConfig = v.InferOutput<typeof linkSchema>;

const fileSchema = v.looseObject({
  stateDir: v.optional(v.string(), "/var/lib/atedge"),
  driver: v.optional(v.array(v.looseObject({ id: v.string(), type: v.string() })), []),
});

/**
 * The table of one link driver in an agent's parsed configuration file; the rest of the file is not looked at.
 *
 * @throws {ArgumentInvalid} when it is not there or not a good one.
 */
export function linkConfigOf(file: unknown, id: string): { readonly config: LinkConfig; readonly stateDir: string } {
  const parsed = v.safeParse(fileSchema, file);
  if (!parsed.success)
    throw new ArgumentInvalid("the configuration has no drivers that can be read; see `atedge config check`");
  const { stateDir, driver } = parsed.output;
  const links = driver.filter(({ type }) => type === "link");
  const table = links.find((link) => link.id === id);
  const names = links.map((link) => link.id).join(", ") || "none";
  if (!table) throw new ArgumentInvalid(`there is no driver ${id} of type "link"; there is ${names}`);
  const config = v.safeParse(linkSchema, table);
  if (config.success) return { config: config.output, stateDir };
  const [issue] = config.issues;
  throw new ArgumentInvalid(`driver ${id}: ${v.getDotPath(issue) ?? ""}: ${issue.message}`);
}
