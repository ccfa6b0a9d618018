// Bundles the command, and if asked the demo's programs, into a folder. Native addons are files beside it, because a
// bundle cannot carry them.
import { build } from "esbuild";
import { chmodSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { copyAddons } from "./native-addons.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
export const { version: VERSION } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));

/** `bindings("better_sqlite3")` and `node-gyp-build(dir)` look for their addon at run time; ours lie at a known place. */
const nativeAddons = {
  name: "native-addons",
  setup(b) {
    const load = (file) => ({
      contents: `const { platform, arch, versions } = process; module.exports = () => require(__dirname + "/native/" + ${file});`,
      loader: "js",
    });
    b.onLoad({ filter: /[\\/]bindings[\\/]bindings\.js$/ }, () =>
      load("`better_sqlite3.${platform}-${arch}-${versions.modules}.node`"),
    );
    b.onLoad({ filter: /[\\/]node-gyp-build[\\/](index|node-gyp-build)\.js$/ }, () =>
      load("`serialport.${platform}-${arch}.node`"),
    );
  },
};

/** Parts of packages that are for browsers or for debugging the packages themselves. */
const leftOut = {
  name: "left-out",
  setup(b) {
    b.onLoad({ filter: /[\\/]debug[\\/]src[\\/]index\.js$/ }, () => ({
      contents: "const make = () => Object.assign(() => {}, { enabled: false, extend: make }); module.exports = make;",
      loader: "js",
    }));
    b.onLoad({ filter: /[\\/]worker-timers[\\/]build[\\/]/ }, () => ({
      contents: "module.exports = { setInterval, clearInterval, setTimeout, clearTimeout };",
      loader: "js",
    }));
  },
};

/**
 * @param addons files by the names that the bundle looks for
 * @returns bytes and number of the JavaScript files
 */
export async function bundle({ outdir, addons, demo = false, version = VERSION }) {
  const entryPoints = { atedge: "cli/main.ts" };
  if (demo)
    for (const name of ["board", "broker", "mqtt-sensor", "main"]) entryPoints[`demo-${name}`] = `demo/${name}.ts`;
  rmSync(outdir, { recursive: true, force: true });
  const { metafile } = await build({ ...common(version), entryPoints, outdir, splitting: true });
  // In one piece, for it runs while the files around it are exchanged.
  const helper = { "update-helper": "deploy/update/helper-main.ts" };
  const alone = await build({ ...common(version), entryPoints: helper, outdir });
  copyAddons(addons, join(outdir, "native"));
  writeFileSync(join(outdir, "package.json"), `${JSON.stringify({ name: "atedge", version, type: "module" })}\n`);
  chmodSync(join(outdir, "atedge.js"), 0o755);
  const outputs = [...Object.values(metafile.outputs), ...Object.values(alone.metafile.outputs)];
  return { bytes: outputs.reduce((sum, { bytes }) => sum + bytes, 0), files: outputs.length };
}

const common = (version) => ({
  absWorkingDir: root,
  entryNames: "[name]",
  chunkNames: "[name]-[hash]",
  bundle: true,
  platform: "node",
  target: "node20",
  format: "esm",
  minify: true,
  legalComments: "none",
  logLevel: "warning",
  metafile: true,
  // A copy of Node's own streams, for other and older platforms.
  alias: { "readable-stream": "node:stream" },
  // Only the demo uses these, and they are development packages.
  external: ["aedes", "@lydell/node-pty"],
  plugins: [nativeAddons, leftOut],
  define: { ATEDGE_VERSION: JSON.stringify(version) },
  // What CommonJS packages inside an ES module need.
  banner: {
    js: 'import{createRequire as $cr}from"node:module";import{fileURLToPath as $fu}from"node:url";import{dirname as $dn}from"node:path";const require=$cr(import.meta.url),__filename=$fu(import.meta.url),__dirname=$dn(__filename);',
  },
});
