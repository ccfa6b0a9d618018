/** The arrows of docs/understand/architecture.md: they point down only, and siblings do not import each other. */
const rooms = {
  core: [],
  drivers: ["core"],
  "firmware-bridge": ["core"],
  atplatform: ["core"],
  messages: ["core"],
  agent: ["core", "drivers", "firmware-bridge", "atplatform", "messages"],
  remote: ["core", "firmware-bridge", "atplatform", "messages"],
  deploy: ["core", "atplatform", "messages"],
  cli: ["core", "drivers", "firmware-bridge", "atplatform", "messages", "agent", "remote", "deploy"],
};
const rule = (name, comment, from, to) => ({ name, comment, severity: "error", from, to });

module.exports = {
  forbidden: [
    ...Object.entries(rooms).map(([room, below]) =>
      rule(
        `${room}-arrows`,
        `${room}/ may import ${below.length > 0 ? below.join(", ") : "node: only"}`,
        { path: `^${room}/` },
        {
          path: "^[^/]+/",
          pathNot: [room, ...below].map((name) => `^${name}/`).concat("^node_modules/"),
          dependencyTypesNot: ["core"],
        },
      ),
    ),
    rule("core-is-node-only", "core/ has no packages", { path: "^core/" }, { dependencyTypes: ["npm", "npm-dev"] }),
    rule(
      "sdk-is-node-only",
      "the SDK has no runtime dependency",
      { path: "^atplatform/(protocol|crypto|transport|client)/" },
      { dependencyTypes: ["npm", "npm-dev"] },
    ),
    rule(
      "sdk-does-not-know-the-server",
      "the SDK works without the servers",
      { path: "^atplatform/(protocol|crypto|transport|client)/" },
      { path: "^atplatform/(server|directory)/" },
    ),
    rule(
      "protocol-is-pure",
      "protocol/ and crypto/ open nothing",
      { path: "^atplatform/(protocol|crypto)/" },
      { path: "^(node:)?(net|tls|dgram|http|https|child_process)$" },
    ),
    rule(
      "messages-are-pure",
      "messages/ open nothing",
      { path: "^messages/" },
      { path: "^(node:)?(net|tls|dgram|http|https|fs|fs/promises|child_process)$" },
    ),
    rule(
      "no-cycles",
      "a cycle hides which file comes first",
      {},
      { circular: true, viaOnly: { dependencyTypesNot: ["type-only"] } },
    ),
    rule("no-tests-in-product", "the product does not import its tests", { pathNot: "^test/" }, { path: "^test/" }),
    rule("resolvable", "every import is there", {}, { couldNotResolve: true }),
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.json" },
    enhancedResolveOptions: {
      exportsFields: ["exports"],
      conditionNames: ["import", "require", "node", "default", "types"],
    },
    extraExtensionsToScan: [],
  },
};
