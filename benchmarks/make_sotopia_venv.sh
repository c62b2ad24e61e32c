#!/bin/sh
# Make the virtual environment in which the benchmarks run sotopia 0.1.5, apart from ours: its
# dependencies (openai 1, pettingzoo 1.25, redis-om ...) would replace those of sotopia-env.
#
#   benchmarks/make_sotopia_venv.sh [FOLDER]     default: .venv-sotopia beside this repository's README
#   PYTHON=python3.12 benchmarks/make_sotopia_venv.sh
#
# Nothing here needs torch, a GPU, Redis or an API key. About 80 packages, one to two minutes.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
folder=${1:-"$root/.venv-sotopia"}
python=${PYTHON:-python3.11}

"$python" -m venv "$folder"
echo '*' > "$folder/.gitignore"  # the folder keeps itself out of git
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check "sotopia==0.1.5"
"$folder/bin/python" -m pip list --disable-pip-version-check --format=freeze |
    grep -iE '^(sotopia|litellm|openai|pettingzoo|gymnasium|pydantic|redis-om)=='
