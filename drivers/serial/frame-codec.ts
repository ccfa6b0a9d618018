/**
 * How bytes and frames turn into one another. A framer holds at most `maxBytes` and does not care where chunks were
 * cut; after garbage it goes on at the next possible start and counts what it dropped.
 */
export interface FrameCodec {
  /** The whole frames that the chunk completes; only lines may be views of it. */
  push(chunk: Uint8Array): Uint8Array[];
  /** The bytes on the line for a frame. @throws {RangeError} for one that this kind of frame cannot hold. */
  encode(frame: Uint8Array): Uint8Array;
  /** Frames dropped for being too long, malformed or of a false checksum. */
  readonly dropped: number;
}
