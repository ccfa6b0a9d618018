import { fromUtf8 } from "../../core/bytes.js";
import { readBinaryFields } from "./binary-fields.js";
import type { SerialConfig } from "./config.js";
import { CountedFrames } from "./counted-frames.js";
import { CsvLines } from "./csv-lines.js";
import { CobsFrames, DelimitedFrames, LineFrames, SlipFrames } from "./delimited-frames.js";
import type { FrameCodec } from "./frame-codec.js";
import { jsonLines, keyValueLines, type LineCodec } from "./line-codec.js";
import { formatNmea, parseNmea } from "./nmea.js";

/** What a device speaks: how its frames are cut, and what is in them. */
export interface Protocol {
  readonly frames: FrameCodec;
  readonly content: LineCodec;
  /** Makes a configured line what is sent: an NMEA sentence gets its `$` and checksum. */
  readonly finish?: (line: string) => string;
}

export function protocolOf(config: SerialConfig): Protocol {
  const { maxLineBytes: maxBytes } = config;
  switch (config.frame) {
    case "json-lines":
      return { frames: new LineFrames(maxBytes), content: jsonLines };
    case "key-value":
      return { frames: new LineFrames(maxBytes), content: keyValueLines };
    case "csv":
      return { frames: new LineFrames(maxBytes), content: new CsvLines(config.columns, config.separator) };
    case "nmea":
      return { frames: new LineFrames(maxBytes), content: nmeaLines(config.checksum !== "none"), finish: formatNmea };
    case "delimited":
      return { frames: new DelimitedFrames(config.delimiter, maxBytes), content: contentOf(config) };
    case "cobs":
      return { frames: new CobsFrames(maxBytes), content: contentOf(config) };
    case "slip":
      return { frames: new SlipFrames(maxBytes), content: contentOf(config) };
    case "fixed-length":
    case "length-prefixed":
      return { frames: countedFrames(config), content: contentOf(config) };
  }
}

function countedFrames({
  frame,
  length,
  lengthBytes,
  order,
  start,
  checksum,
  maxLineBytes,
}: SerialConfig): CountedFrames {
  return new CountedFrames({
    start,
    length: frame === "fixed-length" ? (length ?? 1) : { bytes: lengthBytes, order },
    checksum: checksum ?? "none",
    maxBytes: frame === "fixed-length" ? (length ?? 1) : maxLineBytes,
  });
}

function contentOf({ content, field, order }: SerialConfig): LineCodec {
  switch (content) {
    case "json":
      return jsonLines;
    case "key-value":
      return keyValueLines;
    case "binary": {
      const fields = field.map((one) => ({ ...one, order: one.order ?? order }));
      return { parse: (frame) => readBinaryFields(frame, fields), format: (values) => JSON.stringify(values) };
    }
  }
}

function nmeaLines(requireChecksum: boolean): LineCodec {
  return {
    parse(line) {
      try {
        return parseNmea(fromUtf8(line), requireChecksum);
      } catch {
        return undefined;
      }
    },
    format: (fields) => formatNmea(Object.values(fields).map(String).join(",")),
  };
}
