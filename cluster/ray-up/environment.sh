# shellcheck shell=bash
# Read, not run, before `ray start` on a node of `ray up`: . environment.sh aws|gcp
# What Ray is started with, its workers have. Secrets are fetched with the node's own rights (instance profile, service account),
# so that no file and no command line holds them; those that do not exist in the cloud's secret store are left out.

export PATH=$HOME/stic_env/bin:$PATH
export OMP_WAIT_POLICY=PASSIVE # workers share a node's cores: idle threads must sleep
export RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_MODE=token # the token is a file that ray up copied: ~/.ray/auth_token
export RAY_JOB_STOP_WAIT_TIME_S=60 # for a driver that is told to stop to end by itself
export RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S=1800 # a new node installs for minutes before it joins

# Trainings talk through the interface that Ray takes its address from: by itself torch's gloo looks the host name up, which may
# give a loopback address.
GLOO_SOCKET_IFNAME=$(ip -o route get 8.8.8.8 | sed -n 's/.* dev \([^ ]*\).*/\1/p')
export GLOO_SOCKET_IFNAME NCCL_SOCKET_IFNAME=$GLOO_SOCKET_IFNAME

fetch_secret() { # cloud, name of the secret
  case $1 in
    aws) aws secretsmanager get-secret-value --secret-id "$2" --query SecretString --output text 2>/dev/null ;;
    gcp) gcloud secrets versions access latest --secret "$2" 2>/dev/null ;;
  esac
}

if value=$(fetch_secret "$1" stic-ray-hf-token); then export HF_TOKEN=$value; fi
if value=$(fetch_secret "$1" stic-ray-wandb-api-key); then export WANDB_API_KEY=$value; fi
unset value
