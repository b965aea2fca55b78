#!/usr/bin/env bash
# What a node of `ray up` runs once, from the checkout that lies on it: install.sh EXTRAS [PACKAGE ...]
# Python 3.11 and the pinned packages go into ~/stic_env, whatever Python the machine's own is. Some minutes and, with vLLM, some
# ten GB: where nodes come and go often, bake them into a machine image and this finds everything there.
set -euo pipefail

extras=$1
shift
checkout=$(cd "$(dirname "$0")/../.." && pwd)
uv=$HOME/.local/bin/uv

if ! [ -x "$uv" ]; then
  curl --location --silent --show-error --fail --retry 5 https://astral.sh/uv/0.9.5/install.sh | sh
fi
[ -x "$HOME/stic_env/bin/python" ] || "$uv" venv --python 3.11 "$HOME/stic_env"
"$uv" pip install --python "$HOME/stic_env/bin/python" --constraint "$checkout/cluster/image/constraints.txt" \
  "${checkout}[$extras]" "$@"
