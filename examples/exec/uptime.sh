#!/bin/sh
# A driver for atedge in shell: how long the machine has been up, once a second. It takes no commands, and ends when
# the agent closes its standard input.
echo '{"commands":[],"gives":[{"name":"uptime","unit":"s","type":"number"}]}'
while :; do
  read -r seconds _ < /proc/uptime
  echo "{\"readings\":[{\"name\":\"uptime\",\"unit\":\"s\",\"value\":$seconds}]}"
  sleep 1 &
  wait $!
done &
loop=$!
cat > /dev/null
kill "$loop"
