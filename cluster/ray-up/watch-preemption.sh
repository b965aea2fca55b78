#!/usr/bin/env bash
# Runs beside Ray on a spot node: watch-preemption.sh aws|gcp [SECONDS]
# Asks the cloud's metadata server every few seconds whether the machine will be taken away, and then tells Ray, which gives the
# node no new work and lets trainings on it save a checkpoint. Without it they go on from the one before. It ends with the notice.
set -euo pipefail

cloud=$1
interval_s=${2:-5}
metadata=${METADATA_ADDRESS:-}

is_leaving() {
  case $cloud in
    aws)
      local token
      token=$(curl --silent --fail --max-time 2 --request PUT --header 'X-aws-ec2-metadata-token-ttl-seconds: 60' \
        "${metadata:-http://169.254.169.254}/latest/api/token") || return 1
      curl --silent --fail --max-time 2 --output /dev/null --header "X-aws-ec2-metadata-token: $token" \
        "${metadata:-http://169.254.169.254}/latest/meta-data/spot/instance-action" # 404 until there is a notice
      ;;
    gcp)
      [ "$(curl --silent --fail --max-time 2 --header 'Metadata-Flavor: Google' \
        "${metadata:-http://metadata.google.internal}/computeMetadata/v1/instance/preempted")" = TRUE ]
      ;;
    *)
      echo "no cloud: $cloud" >&2
      exit 2
      ;;
  esac
}

# The command line of this machine's raylet, a word a line. Asked for without a node id, `ray drain-node` would start a cluster of
# its own.
raylet() {
  local process
  for process in /proc/[0-9]*; do
    if [[ $(readlink "$process/exe" 2>/dev/null) == */raylet/raylet ]]; then
      tr '\0' '\n' <"$process/cmdline"
      return
    fi
  done
  echo 'no Ray runs on this machine' >&2
  return 1
}

until is_leaving; do
  sleep "$interval_s"
done

words=$(raylet)
seconds=$([ "$cloud" = aws ] && echo 110 || echo 25)
ray drain-node --address "$(sed -n 's/^--gcs-address=//p' <<<"$words")" --node-id "$(sed -n 's/^--node_id=//p' <<<"$words")" \
  --reason DRAIN_NODE_REASON_PREEMPTION --reason-message 'the cloud takes the machine away' \
  --deadline-remaining-seconds "$seconds"
