import fc from "fast-check";
import t from "tap";
import type { AtSign } from "../../../atplatform/protocol/at-sign.js";
import { parseAtSign } from "../../../atplatform/protocol/at-sign.js";
import { codeOf } from "../../../core/errors.js";
import { Secret } from "../../../core/secret.js";
import { parseCsv } from "../../../deploy/fleet/csv.js";
import { type BundleRow, firstBroken, FleetStore } from "../../../deploy/fleet/fleet-store.js";
import { parseManifest } from "../../../deploy/fleet/manifest.js";
import { planFleet } from "../../../deploy/fleet/plan.js";
import { bundleOf, formatProvision, isProved, parseProvision, proofOf } from "../../../deploy/fleet/provision-file.js";
import { fillTemplate } from "../../../deploy/fleet/template.js";
import { tempFolder } from "../../fixtures/temp-folder.js";

const greenhouse = parseAtSign("@greenhouse");
const secret = new Secret(Buffer.alloc(32, 7).toString("base64"));
const proof = { bundle: "0123456789abcdef", secret, serial: "10000000abcd" };

t.test("a CSV comes back as it was written", async (t) => {
  const field = fc.string().map((text) => text.trim());
  fc.assert(
    fc.property(fc.array(fc.array(field, { minLength: 2, maxLength: 2 }), { minLength: 1, maxLength: 5 }), (rows) => {
      const quoted = rows.map((row) => row.map((text) => `"${text.replaceAll('"', '""')}"`).join(","));
      const read = parseCsv(`\uFEFFa,b\r\n${quoted.join("\r\n")}\r\n`);
      const wanted = rows.filter(([a]) => a !== undefined).map(([a = "", b = ""]) => ({ a: a.trim(), b: b.trim() }));
      t.strictSame(read, wanted);
    }),
  );
  t.strictSame(parseCsv("a,b\n1,\n\n,2\n"), [
    { a: "1", b: "" },
    { a: "", b: "2" },
  ]);
});

t.test("a CSV that is none says which record is wrong", async (t) => {
  t.throws(() => parseCsv(""), /a header is expected/u);
  t.throws(() => parseCsv("a,a\n"), /two columns are named "a"/u);
  t.throws(() => parseCsv("a,b\n1,2\n3\n"), /record 2 has 1 fields, the header has 2/u);
  t.throws(() => parseCsv('a,b\n"1"x,2\n'), /record 1: a quote is out of place/u);
  fc.assert(
    fc.property(fc.string(), (text) => {
      try {
        parseCsv(text);
      } catch (error) {
        if (codeOf(error) !== "SYNTAX_INVALID") throw error;
      }
    }),
  );
});

t.test("a manifest in CSV and one in TOML say the same", async (t) => {
  const csv = `name,serial,atsign,tags,template,value.interval,host
north,10000000abcd,@greenhouse,roof wet,board,5s,pi@north.local
south,10000000abce,@GREENHOUSE,,,,
`;
  const toml = `
[[device]]
name = "north"
serial = "10000000abcd"
atsign = "@greenhouse"
tags = ["roof", "wet"]
template = "board"
values = { interval = "5s" }
host = "pi@north.local"
[[device]]
name = "south"
serial = "10000000abce"
atsign = "@greenhouse"
`;
  const manifest = parseManifest(csv, "boards.csv");
  t.strictSame(manifest, parseManifest(toml, "boards.toml"));
  t.strictSame(manifest.devices[0], {
    name: "north",
    serial: "10000000abcd",
    home: { atSign: greenhouse },
    tags: ["roof", "wet"],
    values: { interval: "5s" },
    template: "board",
    host: "pi@north.local",
  });
  t.match(manifest, { namespace: "atedge", perAtSign: 25, directory: "root.atsign.org:64" });
});

t.test("a manifest with a fault names file, line and board", async (t) => {
  const wrong = (rows: string, message: RegExp): void => {
    t.throws(() => parseManifest(`name,serial,atsign,pool,host\n${rows}`, "boards.csv"), {
      code: "MANIFEST_INVALID",
      message,
    });
  };
  wrong("north,1,@a,,\nnorth,2,@a,,\n", /two devices have the name "north"/u);
  wrong("north,1,@a,,\nsouth,1,@a,,\n", /two devices have the serial "1"/u);
  wrong("north,1,,,\n", /boards\.csv, line 2 \(north\): expected either an atsign or a pool/u);
  wrong("north,1,@a,p,\n", /expected either an atsign or a pool/u);
  wrong("north,1,,p,\n", /there is no pool "p"/u);
  wrong("North Pole,1,@a,,\n", /device: expected a letter/u);
  wrong("north,1 2,@a,,\n", /serial/u);
  wrong("north,1,@a b,,\n", /invalid @sign/u);
  wrong("north,1,@a,,-oProxyCommand=x\n", /host/u);
  t.throws(() => parseManifest("devices = 1\n[[device]]", "boards.toml"), { code: "MANIFEST_INVALID" });
  t.throws(() => parseManifest("[[", "boards.toml"), { code: "MANIFEST_INVALID", message: /boards\.toml/u });
});

t.test("a provisioning file comes back as it was written, and shows its secrets to nobody", async (t) => {
  const provision = {
    ...{ atSign: greenhouse, device: "north", ns: "atedge", directory: "localhost:6400", ca: "-----BEGIN\nx\n" },
    ...{ passcodes: [new Secret("ABC123"), new Secret("DEF456")], proof, config: 'a = "b"\n' },
  };
  const text = formatProvision(provision);
  const read = parseProvision(text, "file");
  t.equal(formatProvision(read), text);
  t.notMatch(JSON.stringify(read), /ABC123|BwcHBw/u);
  for (const [broken, message] of [
    [text.replace('device = "north"', 'device = "No rth"'), /device/u],
    [text.replace("ABC123", "x"), /passcodes/u],
    [text.replace("atsign", "atsing"), /atsign is missing|atsing/u],
    [`${text}\n[[`, /file, line \d+: this is no TOML/u],
  ] as const) {
    t.throws(() => parseProvision(broken, "file"), { message });
    t.notMatch(
      messageOf(() => parseProvision(broken, "file")),
      /DEF456|BwcHBw/u,
      "no secret in it",
    );
  }
});

t.test("a proof is good for its device, its serial number and its very request", async (t) => {
  const name = `atedge.${proofOf(proof, "north", "KEY")}`;
  t.equal(bundleOf(name), proof.bundle);
  t.ok(isProved(name, proof, "north", "KEY"));
  t.notOk(isProved(name, proof, "south", "KEY"));
  t.notOk(isProved(name, proof, "north", "KEZ"));
  t.notOk(isProved(name, { ...proof, serial: "1" }, "north", "KEY"));
  t.notOk(isProved(name, { ...proof, secret: new Secret(Buffer.alloc(32, 8).toString("base64")) }, "north", "KEY"));
  t.notOk(isProved(name, { ...proof, bundle: "0123456789abcdee" }, "north", "KEY"));
  t.notOk(isProved("atedge", proof, "north", "KEY"));
  t.match(name, /^[\w.-]+$/u, "what an application name may be made of");
});

t.test("a template is filled, and a value cannot leave its quotes", async (t) => {
  t.equal(fillTemplate('a = "{{x}}"', "board", { x: 'say "hi"\n' }), 'a = "say \\"hi\\"\\n"');
  t.throws(() => fillTemplate("{{ y }}", "board", { x: "1" }), /template board: there is no value for \{\{y\}\}/u);
  t.throws(() => fillTemplate("{{toString}}", "board", {}), /no value/u);
});

function messageOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    return String(error);
  }
  return "";
}

const manifestOf = (rows: readonly string[], more = ""): ReturnType<typeof parseManifest> =>
  parseManifest(
    `${more}\n${rows
      .map((row) => {
        const [name, serial, home] = row.split(" ");
        return `[[device]]\nname = "${name}"\nserial = "${serial}"\n${home?.startsWith("@") ? "atsign" : "pool"} = "${home}"`;
      })
      .join("\n")}`,
    "boards.toml",
  );

const bundle = (
  id: string,
  device: string,
  atSign: AtSign,
  expiresAtMs = 1000,
): Omit<BundleRow, "state" | "enrollmentId"> => ({
  ...{ id, device, atSign, serial: "s1", secret, expiresAtMs },
});

t.test("a plan says what is to be done, and the same again when nothing was done", async (t) => {
  const store = await FleetStore.open(tempFolder(t), () => 5);
  t.teardown(() => store.close());
  const manifest = manifestOf(["north s1 @greenhouse", "south s2 @greenhouse"]);
  const steps = (nowMs = 10, of = manifest): string[] =>
    planFleet(of, store, nowMs).devices.map(({ device, step }) => `${device.name} ${step.type} ${step.why}`);
  t.strictSame(steps(), ["north bundle new", "south bundle new"]);
  t.strictSame(steps(), ["north bundle new", "south bundle new"]);
  store.putDevice({ name: "north", serial: "s1", atSign: greenhouse, state: "planned", enrollmentId: null }, "planned");
  store.beginBundle(bundle("b1", "north", greenhouse));
  t.strictSame(steps(), ["north bundle unfinished", "south bundle new"]);
  store.bundleMade("b1", "north");
  t.strictSame(steps(), ["north keep bundled", "south bundle new"]);
  t.strictSame(steps(1000), ["north bundle expired", "south bundle new"]);
  t.strictSame(steps(10, manifestOf(["north s9 @greenhouse"])), ["north bundle board replaced"]);
  t.strictSame(steps(10, manifestOf(["north s1 @other"])), ["north bundle moved"]);
  store.claimBundle("b1", "north", "e1");
  store.deviceEnrolled("north", "e1");
  t.strictSame(steps(), ["north keep enrolled", "south bundle new"]);
  t.match(steps(10, manifestOf(["north s9 @greenhouse"])), [/north conflict .* `atedge fleet replace`/u]);
  t.match(steps(10, manifestOf(["north s1 @other"])), [/north conflict .* `atedge fleet transfer`/u]);
  t.strictSame(planFleet(manifestOf(["south s2 @greenhouse"]), store, 10).unlisted, ["north"]);
});

t.test("a pool fills its atSigns one after the other, and who has one keeps it", async (t) => {
  const store = await FleetStore.open(tempFolder(t));
  t.teardown(() => store.close());
  const head = 'devices_per_atsign = 2\n[pools]\np = ["@one", "@two"]';
  const names = ["a", "b", "c", "d", "e"];
  const rows = names.map((name, at) => `${name} s${at} p`);
  const places = (some: readonly string[]): string[] =>
    planFleet(manifestOf(some, head), store, 0).devices.map(({ atSign }) => atSign);
  t.strictSame(places(rows.slice(0, 4)), ["@one", "@one", "@two", "@two"]);
  t.throws(() => places(rows), { code: "LIMIT_EXCEEDED", message: /the pool p is used up/u });
  store.putDevice(
    { name: "d", serial: "s3", atSign: parseAtSign("@one"), state: "enrolled", enrollmentId: "e" },
    "test",
  );
  t.strictSame(places(rows.slice(0, 4)), ["@one", "@two", "@two", "@one"]);
  t.throws(() => planFleet(manifestOf(["a 1 @x", "b 2 @x", "c 3 @x"], "devices_per_atsign = 2"), store, 0), {
    code: "LIMIT_EXCEEDED",
    message: /@x would have 3 devices, 2 are allowed/u,
  });
});

t.test("the trail of a fleet shows what was taken out, changed or put in another order", async (t) => {
  const store = await FleetStore.open(tempFolder(t));
  t.teardown(() => store.close());
  for (let at = 0; at < 5; at += 1) store.note("note", `d${at}`, "x");
  const trail = [...store.audit()];
  t.equal(firstBroken(trail), undefined);
  t.equal(firstBroken(trail.toSpliced(2, 1))?.seq, 4);
  t.equal(firstBroken(trail.map((entry) => (entry.seq === 2 ? { ...entry, detail: "y" } : entry)))?.seq, 2);
  t.equal(firstBroken([trail[1], trail[0], ...trail.slice(2)] as never)?.seq, 2);
});

t.test("two runs with the same state see each other's changes, and one bundle is claimed once", async (t) => {
  const folder = tempFolder(t);
  const [one, two] = await Promise.all([FleetStore.open(folder), FleetStore.open(folder)]);
  t.teardown(() => [one, two].forEach((store) => store.close()));
  one.putDevice({ name: "north", serial: "s1", atSign: greenhouse, state: "planned", enrollmentId: null }, "planned");
  one.beginBundle(bundle("b1", "north", greenhouse));
  two.bundleMade("b1", "north");
  t.equal(one.device("north")?.state, "bundled");
  t.ok(two.claimBundle("b1", "north", "e1"));
  t.notOk(one.claimBundle("b1", "north", "e2"));
  t.match(one.bundle("b1"), { state: "used", enrollmentId: "e1" });
  t.equal(firstBroken(one.audit()), undefined);
  t.equal([...two.audit()].length, 4);
});
