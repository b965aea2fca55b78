# shellcheck shell=bash disable=SC2034
# What head.sh, worker.sh and submit.sh share; each is set by the environment where the default does not do.

# The first of seven ports of this machine: where it is a head the one that others join at, then for the traffic between nodes.
# With worker_ports and the head's dashboard_port they are what a firewall must let through between the machines.
first_port=${FIRST_PORT:-6379}
worker_ports=${WORKER_PORTS:-10002-19999} # a port for each worker process
dashboard_port=${DASHBOARD_PORT:-8265} # of the head, on its loopback device: where jobs are submitted
temp_dir=${RAY_TEMP_DIR:-/tmp/ray} # short, since sockets lie below it, and on a local disk

node_options=(
  --node-manager-port=$((first_port + 1))
  --object-manager-port=$((first_port + 2))
  --runtime-env-agent-port=$((first_port + 3))
  --dashboard-agent-listen-port=$((first_port + 4))
  --metrics-export-port=$((first_port + 5))
  --min-worker-port="${worker_ports%-*}"
  --max-worker-port="${worker_ports#*-}"
)

# Trainings talk through the interface that Ray takes its address from. By itself torch's gloo looks its host name up, which
# Debian and Ubuntu answer with a loopback address: two machines would never find each other.
interface=$(ip -o route get 8.8.8.8 2>/dev/null | sed -n 's/.* dev \([^ ]*\).*/\1/p')
if [ -n "$interface" ]; then
  export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$interface} NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-$interface}
fi

export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token} # without one, whoever reaches a port runs code
export RAY_USAGE_STATS_ENABLED=${RAY_USAGE_STATS_ENABLED:-0}
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} # workers share a machine's cores: idle threads must sleep
export RAY_JOB_STOP_WAIT_TIME_S=${RAY_JOB_STOP_WAIT_TIME_S:-60} # for a driver that is told to stop to end by itself
export RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S=${RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S:-600} # machines that are still starting
