import { chmodSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { deliverBySsh } from "../../cli/ssh.js";
import { parseAtSign } from "../../atplatform/protocol/at-sign.js";
import type { PlannedDevice } from "../../deploy/fleet/plan.js";
import { tempFolder } from "../fixtures/temp-folder.js";

const forever = new AbortController().signal;

/** Programs that stand in for ssh, sudo and systemctl; what the board would run really runs, below a folder. */
function boardIn(folder: string): void {
  const program = (name: string, text: string): void => {
    writeFileSync(join(folder, "bin", name), `#!/bin/sh\n${text}\n`);
    chmodSync(join(folder, "bin", name), 0o755);
  };
  mkdirSync(join(folder, "bin"));
  mkdirSync(join(folder, "boot"));
  program("ssh", `printf '%s\\n' "$@" > ${folder}/ssh.args\nfor last; do :; done\nexec sh -c "$last"`);
  program("sudo", `shift 3\nexec sh -c "$(printf '%s' "$1" | sed 's#/boot#${folder}/boot#g')"`);
  program("systemctl", `echo "$@" > ${folder}/started`);
}

const planned = (host?: string): PlannedDevice => ({
  device: {
    name: "north",
    serial: "1",
    home: { pool: "p" },
    tags: [],
    values: {},
    ...(host !== undefined && { host }),
  },
  atSign: parseAtSign("@one"),
  step: { type: "bundle", why: "new" },
});

t.test("a bundle reaches its board over SSH, on standard input", async (t) => {
  const folder = tempFolder(t);
  boardIn(folder);
  const { PATH } = process.env;
  process.env["PATH"] = `${join(folder, "bin")}:${PATH}`;
  t.teardown(() => (process.env["PATH"] = PATH));
  await deliverBySsh(planned("pi@north"), 'passcodes = ["SECRET1"]\n', forever);
  const file = join(folder, "boot", "atedge-provision.toml");
  t.equal(readFileSync(file, "utf8"), 'passcodes = ["SECRET1"]\n');
  t.equal(statSync(file).mode & 0o777, 0o600);
  t.equal(readFileSync(join(folder, "started"), "utf8"), "start --no-block atedge-provision.service\n");
  const args = readFileSync(join(folder, "ssh.args"), "utf8");
  t.match(args, /^-o\nBatchMode=yes\n[^]*\n--\npi@north\n/u);
  t.notMatch(args, /SECRET1/u);

  writeFileSync(join(folder, "bin", "ssh"), "#!/bin/sh\necho 'Permission denied (publickey).' >&2\nexit 255\n");
  await t.rejects(deliverBySsh(planned("pi@north"), "x", forever), {
    message: /ssh to pi@north ended with 255: Permission denied/u,
  });
  await t.rejects(deliverBySsh(planned(), "x", forever), { message: /names no host/u });
  t.ok(existsSync(file));
});
