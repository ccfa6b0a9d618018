/** Of commands that read a key file. Apart from what it does, so that `--help` loads none of it. */
export const PASSPHRASE_OPTION = [
  "--passphrase-file <file>",
  "file with the passphrase that the key file is sealed with (on a terminal you are asked)",
] as const;
