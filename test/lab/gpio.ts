/**
 * The GPIO driver on a real GPIO chip of the kernel, with the tools of Debian 12 (gpiod 1.6) and of Debian 13 (2.2):
 * a virtual machine with Debian's kernel and gpio-sim, which Debian leaves out and which is built from its sources
 * here. Needs root on Debian 12 and takes some minutes, most of them for 500 MB of packages.
 */
import { spawn } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = fileURLToPath(new URL("../..", import.meta.url));
const work = join(root, "node_modules", ".cache", "atedge", "gpio-lab");
await mkdir(work, { recursive: true });

const PREPARE = String.raw`set -e
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq -y --no-install-recommends qemu-system-x86 cpio gcc make linux-headers-amd64 >/dev/null
K=$(apt-cache depends linux-headers-amd64 | awk '/Depends: linux-headers-6/{sub("linux-headers-","",$2); print $2}')
echo "$K" > kernel
mkdir -p deb12 deb13 lists/partial archives/partial
chmod 777 deb12 deb13
(cd deb12 && apt-get download -qq linux-image-$K linux-source-6.1 gpiod libgpiod2 libc6 libstdc++6 libgcc-s1 busybox-static util-linux libcap-ng0)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main" > trixie.list
T="-o Dir::Etc::sourcelist=$PWD/trixie.list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$PWD/lists -o Dir::Cache=$PWD"
apt-get $T update -qq
(cd deb13 && apt-get $T download -qq gpiod libgpiod3 libc6 libstdc++6 libgcc-s1 busybox-static util-linux libcap-ng0)
if [ ! -e gpio-sim/gpio-sim.ko ]; then
  mkdir -p gpio-sim source
  dpkg-deb --fsys-tarfile deb12/linux-source-*.deb | tar x -C source ./usr/src/linux-source-6.1.tar.xz
  tar xf source/usr/src/linux-source-6.1.tar.xz -C source linux-source-6.1/drivers/gpio linux-source-6.1/kernel/irq
  rm source/usr/src/linux-source-6.1.tar.xz
  cp source/linux-source-6.1/drivers/gpio/gpiolib.h source/linux-source-6.1/kernel/irq/irq_sim.c gpio-sim/
  cp source/linux-source-6.1/drivers/gpio/gpio-sim.c gpio-sim/main.c
  # The kernel does not export irq_to_desc to modules.
  sed -i 's/irq_to_desc(\([a-z]*\))/irq_data_to_desc(irq_get_irq_data(\1))/' gpio-sim/irq_sim.c
  printf 'obj-m += gpio-sim.o\ngpio-sim-y := main.o irq_sim.o\n' > gpio-sim/Makefile
  make -s -C /usr/src/linux-headers-$K M=$PWD/gpio-sim modules
fi
dpkg-deb --fsys-tarfile deb12/linux-image-*.deb | tar x ./boot/vmlinuz-$K ./lib/modules/$K/kernel/fs/configfs/configfs.ko
for N in 12 13; do
  R=$PWD/root$N; rm -rf $R; mkdir -p $R
  for d in deb$N/*.deb; do case $d in *linux-*) ;; *) dpkg-deb -x $d $R ;; esac; done
  rm -rf $R/usr/share; mkdir -p $R/proc $R/sys $R/dev $R/tmp $R/mod $R/bin $R/lib64
  [ -e $R/bin/busybox ] || cp $R/usr/bin/busybox $R/bin/busybox
  [ -e $R/lib64/ld-linux-x86-64.so.2 ] || cp -L "$(find $R -name ld-linux-x86-64.so.2 | head -1)" $R/lib64/
  cp "$(readlink -f "$(command -v node)")" $R/usr/bin/node
  cp lib/modules/$K/kernel/fs/configfs/configfs.ko gpio-sim/gpio-sim.ko $R/mod/
  cp program.mjs $R/program.mjs; cp init $R/init; chmod +x $R/init
  (cd $R && find . | cpio -o -H newc --quiet | gzip -1) > init$N.gz
done
`;

const INIT = String.raw`#!/bin/busybox sh
export PATH=/usr/bin:/bin:/sbin LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu:/lib/x86_64-linux-gnu
/bin/busybox mkdir -p /busy; /bin/busybox --install -s /busy; export PATH=$PATH:/busy
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
insmod /mod/configfs.ko; insmod /mod/gpio-sim.ko; mount -t configfs c /sys/kernel/config
C=/sys/kernel/config/gpio-sim/sim; mkdir $C $C/bank; echo 8 > $C/bank/num_lines
mkdir $C/bank/line0 $C/bank/line2; echo DOOR > $C/bank/line0/name; echo RELAY > $C/bank/line2/name; echo 1 > $C/live
export CHIP=$(cat $C/bank/chip_name); export SIM=/sys/devices/platform/$(cat $C/dev_name)/$CHIP
echo "tools: $(gpioinfo --version | head -n 1)"
node /program.mjs
poweroff -f
`;

await build({
  entryPoints: [join(root, "test/fixtures/gpio-vm-program.ts")],
  outfile: join(work, "program.mjs"),
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node20",
});
await writeFile(join(work, "init"), INIT);
process.stdout.write("preparing the virtual machine …\n");
const prepared = await shell(PREPARE, 1_200_000);
if (prepared.code !== 0) throw new Error(`it could not be prepared:\n${prepared.text.slice(-3000)}`);
for (const release of [12, 13]) {
  // TCG: machines for tests have no virtualisation of their own.
  const boot = `qemu-system-x86_64 -accel tcg -m 768 -kernel boot/vmlinuz-$(cat kernel) -initrd init${release}.gz -append "console=ttyS0 quiet panic=-1" -nographic -no-reboot -nic none`;
  const { text } = await shell(boot, 180_000);
  const lines = text.split(/\r?\n/u).filter((line) => /tools: |^(?:ok|not ok|done)/u.test(line));
  process.stdout.write(`Debian ${release}: ${lines.join("\n  ")}\n`);
  if (lines.at(-1) !== "done" || lines.some((line) => line.startsWith("not ok"))) process.exitCode = 1;
}

async function shell(
  script: string,
  timeout: number,
): Promise<{ readonly code: number | null; readonly text: string }> {
  const child = spawn("bash", ["-c", script], { cwd: work, stdio: ["ignore", "pipe", "pipe"], timeout });
  let text = "";
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (part: string) => (text += part));
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  return { code, text };
}
