#!/usr/bin/env bash
# This machine joins a head, and leaves with it: worker.sh HOST[:PORT] [OPTION of ray start ...]
# Waits for a head that is still starting, and joins again where Ray ended here alone. Ends with 0 when the head is gone or on
# SIGTERM, with 1 when Ray ended here three times.
set -euo pipefail
# shellcheck source=settings.sh
. "$(dirname "$0")/settings.sh"

head=$1
shift
[[ $head == *:* ]] || head=$head:6379
wait_s=${HEAD_WAIT_S:-600}
node=

# `ray health-check` would take a minute and a half to say no.
head_answers() { timeout 5 bash -c "exec 3<>/dev/tcp/${head%:*}/${head##*:}" 2>/dev/null; }

leave() {
  [ -z "$node" ] || kill "$node" 2>/dev/null || true
  wait || true
  exit 0
}

until head_answers; do
  if ((SECONDS > wait_s)); then
    echo "no Ray head answers at $head: start head.sh there, and let the ports through" >&2
    exit 1
  fi
  sleep 2
done

trap leave TERM INT
for _ in 1 2 3; do
  ray start --block --address="$head" "${node_options[@]}" "$@" &
  node=$!
  while kill -0 "$node" 2>/dev/null; do
    sleep 10 &
    wait $! # a plain sleep would keep the trap waiting
    head_answers || head_answers || leave
  done
done
echo 'Ray has ended on this machine three times, and its head has not' >&2
exit 1
