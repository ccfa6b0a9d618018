import * as v from "valibot";

const integer = (min: number, max: number) => v.pipe(v.number(), v.integer(), v.minValue(min), v.maxValue(max));
const finite = v.pipe(v.number(), v.finite());
const durability = v.picklist(["power-cut", "crash"]);
const TEN_YEARS_MS = 315_360_000_000;

const sharePercent = (description: string) =>
  v.optional(v.pipe(integer(1, 100), v.description(description), v.examples([50])));
const maxAgeMs = (description: string) =>
  v.optional(v.pipe(integer(60_000, TEN_YEARS_MS), v.description(description), v.examples([2_592_000_000])));

const readingClass = (name: string) =>
  v.optional(
    v.pipe(
      v.strictObject({
        sharePercent: sharePercent(
          `Most of maxBytes that ${name} may take, in percent; then their oldest go, and the gap is declared. Left out: all of it.`,
        ),
        maxAgeMs: maxAgeMs(
          `Longest that ${name} wait for a reader, in milliseconds; then they go, and the gap is declared. Left out: however long it takes.`,
        ),
      }),
      v.description(`What counts for ${name} alone.`),
    ),
    {},
  );

const answerClass = v.strictObject({
  sharePercent: v.optional(
    v.pipe(
      integer(1, 100),
      v.description(
        "Most of maxBytes that answers to commands may take, in percent; then the oldest go. A caller that asks again gets its answer all the same.",
      ),
    ),
    10,
  ),
});

export const outbox = v.strictObject({
  maxBytes: v.optional(
    v.pipe(
      integer(1_048_576, 1_099_511_627_776),
      v.description(
        "Most that waiting readings may take on the disk; then the oldest of the lowest class go, and the gap is declared.",
      ),
    ),
    268_435_456,
  ),
  minFreeBytes: v.optional(
    v.pipe(
      integer(0, 1_099_511_627_776),
      v.description("The outbox stops growing when less than this is free on its disk."),
    ),
    67_108_864,
  ),
  commitIntervalMs: v.optional(
    v.pipe(
      integer(0, 60_000),
      v.description(
        "Under load, readings of so long share one write to the disk: longer wears an SD card less, and an acknowledgement takes longer.",
      ),
    ),
    200,
  ),
  memoryBytes: v.optional(
    v.pipe(
      integer(0, 1_073_741_824),
      v.description(
        "While the disk cannot be used, readings are relayed through so much memory, and lost by a power cut. 0: the agent ends instead.",
      ),
    ),
    8_388_608,
  ),
  alarm: readingClass("alarms"),
  answer: v.optional(v.pipe(answerClass, v.description("What counts for answers to commands alone.")), {}),
  event: readingClass("events"),
  measurement: readingClass("measurements"),
});

export const durabilities = v.strictObject({
  alarm: v.optional(
    v.pipe(
      durability,
      v.description("When an alarm counts as accepted: on the disk, or safe from a crash of the agent."),
    ),
    "power-cut",
  ),
  answer: v.optional(
    v.pipe(
      durability,
      v.description(
        "The same for what became of a command: after a power cut the outcome of one that `crash` has lost is unknown.",
      ),
    ),
    "power-cut",
  ),
  event: v.optional(v.pipe(durability, v.description("The same for an event.")), "power-cut"),
  measurement: v.optional(v.pipe(durability, v.description("The same for a measurement.")), "power-cut"),
});

const CHANNEL_PATTERN = /^[A-Za-z0-9*][A-Za-z0-9\-:./_*]{0,127}$/u;

/** Reduces what is measured before it is accepted; see agent/reduce. */
export const channel = v.pipe(
  v.strictObject({
    name: v.pipe(
      v.string(),
      v.regex(CHANNEL_PATTERN, "expected a name such as bench/temperature, where * stands for any text"),
      v.description(
        "Full names of the channels, the driver's id in front; `*` stands for any text. The first table that fits a channel counts.",
      ),
      v.examples(["bench/temperature.*"]),
    ),
    scale: v.optional(
      v.pipe(finite, v.description("The value is multiplied by this, then `offset` is added."), v.examples([0.1])),
    ),
    offset: v.optional(v.pipe(finite, v.description("Added to the value."), v.examples([-273.15]))),
    unit: v.optional(
      v.pipe(
        v.string(),
        v.regex(/^[^\p{C}]{1,32}$/u, "expected a unit of at most 32 characters"),
        v.description("SenML unit of the result."),
        v.examples(["Cel"]),
      ),
    ),
    clampMin: v.optional(v.pipe(finite, v.description("Smaller values become this one."), v.examples([-40]))),
    clampMax: v.optional(v.pipe(finite, v.description("Larger values become this one."), v.examples([85]))),
    deadband: v.optional(
      v.pipe(
        v.number(),
        v.finite(),
        v.minValue(0),
        v.description("A value that differs from the last one sent by no more than this is left out."),
        v.examples([0.2]),
      ),
    ),
    minIntervalMs: v.optional(
      v.pipe(
        integer(1, 86_400_000),
        v.description("Of values that are closer to the last one sent than this, none is taken."),
        v.examples([1000]),
      ),
    ),
    maxIntervalMs: v.optional(
      v.pipe(
        integer(1000, 86_400_000),
        v.description("A value is taken whatever `deadband` says when the last one sent is so old."),
        v.examples([600_000]),
      ),
    ),
    windowMs: v.optional(
      v.pipe(
        integer(1000, 86_400_000),
        v.description(
          "Values of so long become three: `NAME.min`, `NAME.mean` and `NAME.max`, sent at its end. In the place of `deadband` and the intervals.",
        ),
        v.examples([60_000]),
      ),
    ),
  }),
  v.partialCheck(
    [["clampMin"], ["clampMax"]],
    ({ clampMin = -Infinity, clampMax = Infinity }) => clampMin <= clampMax,
    "expected clampMin not to be above clampMax",
  ),
  v.partialCheck(
    [["windowMs"], ["deadband"], ["minIntervalMs"], ["maxIntervalMs"]],
    ({ windowMs, deadband, minIntervalMs, maxIntervalMs }) =>
      windowMs === undefined || (deadband ?? minIntervalMs ?? maxIntervalMs) === undefined,
    "expected windowMs alone, without deadband, minIntervalMs and maxIntervalMs",
  ),
  v.description(
    "Reduces measurements on the device: numbers only, alarms and events pass as they are. Readers find these tables in the info record.",
  ),
);

export type ChannelConfig = v.InferOutput<typeof channel>;

export const dataBudgetMB = v.optional(
  v.pipe(
    integer(1, 1_000_000),
    v.description(
      "Megabytes a calendar month (UTC) that a metered link may carry, both ways, TLS included. Ahead of that, readings share larger messages and less is sent to keep the link alive; nothing is left out, and alarms do not wait. Left out: no limit.",
    ),
    v.examples([50]),
  ),
);

export const deflate = v.optional(
  v.pipe(
    v.boolean(),
    v.description(
      "true compresses the readings of a message before they are encrypted, where that saves bytes; the reader must know of it (atedge does).",
    ),
  ),
  false,
);
