#!/bin/sh
# Fuzzes the C library for this many seconds a target (60 unless given) and keeps what is new in the corpora.
# Needs clang with libFuzzer. Exits with 1 and leaves crash-* here when something was found.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
seconds=${1:-60}
build=${BUILD:-$here/../build}
make -s -C "$here/.." BUILD="$build" fuzz
for target in link cbor; do
  found=$(mktemp -d)
  "$build/fuzz-$target" -max_total_time="$seconds" -max_len=4096 -print_final_stats=1 -verbosity=0 "$found" "$here/corpus/$target"
  "$build/fuzz-$target" -set_cover_merge=1 -verbosity=0 "$here/corpus/$target" "$found"
  rm -rf "$found"
done
