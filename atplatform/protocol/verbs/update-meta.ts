import { CommandScanner } from "../command-scanner.js";
import { scanName, scanScope } from "../key-grammar.js";
import { formatMetadataOptions, scanMetadataOptions, type MetadataOptions } from "../metadata-options.js";
import { field, oneLine, type VerbCodec } from "../verb-codec.js";

export interface UpdateMeta {
  /** Full name as stored, with owner. */
  readonly key: string;
  readonly options: MetadataOptions;
}

const KEY = /^(?:(?:public|@[^:@\s]+):)?[^:@\s]+@[^:@\s]+$/u;

/** `update:meta:<key>[:<options>]`: metadata only; here the key comes first. */
export const updateMeta: VerbCodec<UpdateMeta> = {
  usage: "update:meta:ttl:20000:ttb:20000:ttr:20000",

  format: ({ key, options }) => oneLine(`update:meta:${field("key", key, KEY)}${formatMetadataOptions(options)}`),

  parse(line) {
    const scanner = new CommandScanner(line, updateMeta.usage);
    scanner.expect("update:meta");
    const key = scanName(scanner, scanScope(scanner));
    if (!key.includes("@", 1)) scanner.refuse();
    const options = scanMetadataOptions(scanner);
    scanner.end();
    return { key, options };
  },
};
