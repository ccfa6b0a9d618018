#!/bin/sh
# Makes this board a device from atedge-provision.toml on its boot partition; run at each start while that file is there.
# What goes wrong stands in atedge-provision.error.txt beside it, and the board's LED blinks fast; it is tried again at the
# next start, and while the network or the approval may still come.
set -u

ATEDGE=${ATEDGE:-/usr/bin/atedge}
LEDS=${ATEDGE_LEDS:-/sys/class/leds}
CONFIG=${ATEDGE_CONFIG:-/etc/atedge/atedge.toml}
STATE=${ATEDGE_STATE:-/var/lib/atedge}
WAIT=${ATEDGE_WAIT:-24h}
POLL=${ATEDGE_POLL:-10s}

# Debian 12 and newer have the partition at /boot/firmware.
for folder in ${ATEDGE_BOOT:-/boot/firmware /boot}; do
  file=$folder/atedge-provision.toml
  [ -f "$file" ] && break
done
[ -f "$file" ] || exit 0
errors=$folder/atedge-provision.error.txt

# The green one has had several names.
led() {
  for name in ACT led0 PWR led1; do
    [ -w "$LEDS/$name/trigger" ] || continue
    was=${was:-$(sed -n 's/.*\[\(.*\)\].*/\1/p' "$LEDS/$name/trigger")}
    case $1 in
      working) echo heartbeat > "$LEDS/$name/trigger" ;;
      failed)
        echo timer > "$LEDS/$name/trigger"
        for part in delay_on delay_off; do [ ! -w "$LEDS/$name/$part" ] || echo 100 > "$LEDS/$name/$part"; done
        ;;
      done) echo "${was:-mmc0}" > "$LEDS/$name/trigger" ;;
    esac
    return
  done
}

said=$(mktemp)
trap 'rm -f "$said"' EXIT
led working
# shellcheck disable=SC2086 # more words than one, in tests
if $ATEDGE provision "$file" --state "$STATE" --config "$CONFIG" --wait "$WAIT" --poll "$POLL" 2> "$said"; then
  rm -f "$errors"
  # Made by root, used by the agent.
  if [ "$(id -u)" = 0 ] && getent passwd atedge > /dev/null; then chown -R atedge:atedge "$STATE"; fi
  sync
  led done
  exit 0
fi

{
  echo "This board could not be made a device of atedge, $(date -u '+%Y-%m-%d %H:%M UTC'):"
  echo
  grep -v '…$' "$said" | sed 's/^atedge: //'
  echo
  echo "atedge-provision.toml is unchanged. It is tried again at the next start of the board."
} > "$errors.new"
mv "$errors.new" "$errors"
sync
cat "$said" >&2
led failed
exit 1
