#!/usr/bin/env bash
# Make .venv from requirements-dev.lock and this checkout. Does nothing when it is up to date.
set -euo pipefail

python=${1:-python3}
venv=.venv
lock=requirements-dev.lock

say() { printf '%s\n' "$*" >&2; }

if ! command -v "$python" >/dev/null; then
    say "there is no $python; install Python 3.11 or later, or name it: make venv PYTHON=/path/to/python"
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    say "$("$python" --version) is too old: Strongroom needs Python 3.11 or later;" \
        "name another one with PYTHON=/path/to/python"
    exit 1
fi

# The checkout's path is part of the key because a venv does not survive a move.
key=$({
    pwd -P
    "$python" -c 'import sys; print(sys.version, sys.base_prefix)'
    cat "$lock"
    sed -n '/^version = /p; /^\[project.scripts\]/,/^$/p' pyproject.toml
} | sha256sum | cut -c1-32)
stamp=$venv/.strongroom-$key
[[ -e $stamp ]] && "$venv/bin/python" -c '' 2>/dev/null && exit 0

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package=python3-venv
    if ! command -v apt-get >/dev/null; then
        say "$python lacks the modules venv and ensurepip; install them with your package manager"
        exit 1
    elif [[ $(id -u) != 0 ]]; then
        say "$python lacks the modules venv and ensurepip; run: sudo apt-get install $package"
        exit 1
    fi
    say "installing $package"
    export DEBIAN_FRONTEND=noninteractive
    install=(apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends "$package")
    "${install[@]}" >/dev/null 2>&1 || { apt-get -qq update && "${install[@]}" >/dev/null; }
fi

if ! "$venv/bin/python" -c '' 2>/dev/null; then
    say "making $venv"
    "$python" -m venv --clear "$venv"
fi
say "installing the locked dependencies"
# An offline copy (make lab ARGS=bundle) carries them: nothing is asked of an index then.
if [[ -d .wheels ]]; then export PIP_NO_INDEX=1 PIP_FIND_LINKS=.wheels; fi
pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install --require-hashes -r "$lock"
"${pip[@]}" install --no-deps --no-build-isolation -e .
rm -f "$venv"/.strongroom-*
touch "$stamp"
