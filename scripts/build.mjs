// Bundles the command and the demo's programs into dist/. Native addons are copied to dist/native, because a bundle
// cannot carry them.
import { build } from "esbuild";
import { chmodSync, copyFileSync, mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const dist = join(root, "dist");
const require = createRequire(import.meta.url);
const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));

/** `bindings("better_sqlite3")` and `node-gyp-build(dir)` look for their addon at run time; ours lie at a known place. */
const nativeAddons = {
  name: "native-addons",
  setup(b) {
    const load = (name) => ({
      contents: `module.exports = () => require(__dirname + "/native/${name}." + process.platform + "-" + process.arch + ".node");`,
      loader: "js",
    });
    b.onLoad({ filter: /[\\/]bindings[\\/]bindings\.js$/ }, () => load("better_sqlite3"));
    b.onLoad({ filter: /[\\/]node-gyp-build[\\/](index|node-gyp-build)\.js$/ }, () => load("serialport"));
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

const entryPoints = { atedge: "cli/main.ts" };
for (const name of ["board", "broker", "mqtt-sensor", "main"]) entryPoints[`demo-${name}`] = `demo/${name}.ts`;

// Built beside and moved into place, so that a build that fails leaves the last good one.
const staging = `${dist}.new`;
rmSync(staging, { recursive: true, force: true });
const { metafile } = await build({
  absWorkingDir: root,
  entryPoints,
  outdir: staging,
  entryNames: "[name]",
  chunkNames: "[name]-[hash]",
  bundle: true,
  splitting: true,
  platform: "node",
  target: "node20",
  format: "esm",
  minify: true,
  // Error names are part of what people read.
  keepNames: true,
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

mkdirSync(join(staging, "native"));
for (const [name, file] of addons())
  copyFileSync(file, join(staging, "native", `${name}.${process.platform}-${process.arch}.node`));
chmodSync(join(staging, "atedge.js"), 0o755);
rmSync(dist, { recursive: true, force: true });
renameSync(staging, dist);

const bytes = Object.entries(metafile.outputs).reduce((sum, [, output]) => sum + output.bytes, 0);
process.stdout.write(
  `dist/: ${(bytes / 1e6).toFixed(2)} MB of JavaScript in ${Object.keys(metafile.outputs).length} files\n`,
);

function addons() {
  const serialport = dirname(require.resolve("@serialport/bindings-cpp/package.json"));
  const gypBuild = createRequire(join(serialport, "package.json"))("node-gyp-build");
  return [
    [
      "better_sqlite3",
      join(dirname(require.resolve("better-sqlite3/package.json")), "build", "Release", "better_sqlite3.node"),
    ],
    ["serialport", gypBuild.path(serialport)],
  ];
}
