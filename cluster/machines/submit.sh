#!/usr/bin/env bash
# On the head's machine: submit a job, show what it says, end as it ends: submit.sh [OPTION of ray job submit ...] -- COMMAND ...
# Waits for a head that is still starting. On SIGTERM or Ctrl-C the job is stopped, and the exit status is 143; the same command
# goes on later.
set -euo pipefail
# shellcheck source=settings.sh
. "$(dirname "$0")/settings.sh"

export RAY_ADDRESS=http://127.0.0.1:$dashboard_port
wait_s=${HEAD_WAIT_S:-600}
job=stic-ray-$(date +%Y%m%d-%H%M%S)-$$

until ray job list >/dev/null 2>&1; do
  if ((SECONDS > wait_s)); then
    echo "no Ray head answers at $RAY_ADDRESS: start head.sh" >&2
    exit 1
  fi
  sleep 2
done

# Into a file Python writes when a buffer is full: what a job says would come hours late.
PYTHONUNBUFFERED=1 ray job submit --submission-id "$job" "$@" &
client=$!
stopped=
trap 'stopped=yes; ray job stop "$job" || true' TERM INT
code=0
wait "$client" || code=$?
while kill -0 "$client" 2>/dev/null; do # a trap has interrupted the wait: the client ends when the job has
  code=0
  wait "$client" || code=$?
done
[ -z "$stopped" ] || code=143 # the client calls it a success
exit "$code"
