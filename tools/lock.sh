#!/usr/bin/env bash
# Write requirements.lock (runtime), requirements-dev.lock, requirements-fuzz.lock, and the lock of the benchmark's
# peers: pinned, hashed, for every platform, naming no index.
set -euo pipefail

command -v uv >/dev/null || { echo "make lock needs uv: pip install uv" >&2; exit 1; }
compile=(uv pip compile --quiet --universal --python-version 3.11 --generate-hashes
    --no-emit-index-url --no-emit-find-links --no-annotate --no-header)
"${compile[@]}" "$@" pyproject.toml -o requirements.lock
"${compile[@]}" "$@" pyproject.toml --group dev -o requirements-dev.lock
"${compile[@]}" "$@" pyproject.toml --group fuzz --constraint requirements-dev.lock -o requirements-fuzz.lock
"${compile[@]}" "$@" tests/bench/peers/requirements.in -o tests/bench/peers/requirements.lock
"${compile[@]}" "$@" --no-deps docs/lab/raftos/requirements.in -o docs/lab/raftos/requirements.lock
