#!/usr/bin/env bash
# A Ray head on this machine, until SIGTERM: head.sh [OPTION of ray start ...]
# All machines hold the same token: `ray get-auth-token --generate` makes ~/.ray/auth_token on one, scp brings it to the others.
set -euo pipefail
# shellcheck source=settings.sh
. "$(dirname "$0")/settings.sh"

exec ray start --head --block --port="$first_port" --ray-client-server-port=$((first_port + 6)) \
  --dashboard-port="$dashboard_port" --temp-dir="$temp_dir" "${node_options[@]}" "$@"
