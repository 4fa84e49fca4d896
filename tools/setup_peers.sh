#!/usr/bin/env bash
# Make what the benchmark compares with: build/peers-venv from tests/bench/peers/requirements.lock, and, where
# mmdebstrap is, a Debian root with a container engine in build/cache. Does nothing when both are there.
# Nothing of them is part of the project.
set -euo pipefail

venv=build/peers-venv
lock=tests/bench/peers/requirements.lock
root=build/cache/peers-bookworm.tar
mkdir -p build/cache

key=$({ pwd -P; .venv/bin/python -c 'import sys; print(sys.version)'; cat "$lock"; } | sha256sum | cut -c1-32)
stamp=$venv/.strongroom-$key
if [[ ! -e $stamp ]]; then
    echo "making $venv" >&2
    .venv/bin/python -m venv --clear "$venv"
    "$venv/bin/python" -m pip --quiet --disable-pip-version-check install --require-hashes --only-binary=:all: -r "$lock"
    touch "$stamp"
fi

if [[ $(id -u) == 0 && ! -s $root ]] && command -v mmdebstrap >/dev/null; then
    echo "making $root" >&2
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        grep -m 1 -E '/debian/?$' || true)
    # shellcheck disable=SC2086  # no mirror known: mmdebstrap's own
    mmdebstrap --quiet --format=tar --variant=minbase --include=docker.io,iptables,iproute2,busybox-static \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$root.new" $mirror
    mv "$root.new" "$root"
fi
