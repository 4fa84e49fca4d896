#!/usr/bin/env bash
# Make build/peers-venv from tests/bench/peers/requirements.lock: programs that the benchmark compares with.
# Does nothing when it is up to date. Nothing of them is part of the project.
set -euo pipefail

venv=build/peers-venv
lock=tests/bench/peers/requirements.lock

key=$({ pwd -P; .venv/bin/python -c 'import sys; print(sys.version)'; cat "$lock"; } | sha256sum | cut -c1-32)
stamp=$venv/.strongroom-$key
[[ -e $stamp ]] && exit 0

echo "making $venv" >&2
.venv/bin/python -m venv --clear "$venv"
"$venv/bin/python" -m pip --quiet --disable-pip-version-check install --require-hashes --only-binary=:all: -r "$lock"
touch "$stamp"
