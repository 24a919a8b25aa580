#!/usr/bin/env bash
# The demo: a real cluster loses its master under load. Prints every command that it runs.
set -euo pipefail

REAPER_HOME=$(mktemp -d "${TMPDIR:-/tmp}/reaper-demo.XXXXXX")
export REAPER_HOME
export REAPER_PROGRESS=human # the steps as a person sees them, also in a pipe
load=""

clean_up() {
  if [ -n "$load" ]; then kill -INT "$load" 2>/dev/null || true; wait "$load" 2>/dev/null || true; fi
  reaper lab down >/dev/null 2>&1 || true
  rm -rf "$REAPER_HOME"
}
trap clean_up EXIT

run() {
  printf '\n$ %s\n' "$*"
  "$@"
}

run reaper lab up
printf '\n$ reaper lab load --rate 100 &\n'
reaper lab load --rate 100 >"$REAPER_HOME/load.txt" 2>&1 &
load=$!
sleep 2
run reaper status
verdict=0
run reaper rotate lab || verdict=$?
run reaper kill --random --role master --yes || verdict=$?
run reaper status
run reaper runs
kill -INT "$load"
wait "$load" || verdict=$?
load=""
printf '\nthe load, as it saw all that: '
tail -n 1 "$REAPER_HOME/load.txt"
run reaper lab down
exit "$verdict"
