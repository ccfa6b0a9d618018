/** Put in by the build, from package.json. */
declare const ATEDGE_VERSION: string | undefined;

export const VERSION = typeof ATEDGE_VERSION === "string" ? ATEDGE_VERSION : "0.0.0-dev";
