#!/usr/bin/env bash
# Make build/fuzz-venv from requirements-fuzz.lock and this checkout. Does nothing when it is up to date.
# Apart from .venv: its tools are large, and one of them puts itself into every run of pytest.
set -euo pipefail

venv=build/fuzz-venv
lock=requirements-fuzz.lock

key=$({ pwd -P; .venv/bin/python -c 'import sys; print(sys.version)'; cat "$lock"; } | sha256sum | cut -c1-32)
stamp=$venv/.strongroom-$key
[[ -e $stamp ]] && "$venv/bin/python" -c '' 2>/dev/null && exit 0

echo "making $venv" >&2
.venv/bin/python -m venv --clear "$venv"
"$venv/bin/python" -m pip --quiet --disable-pip-version-check install --require-hashes -r "$lock"
# The packages come from the checkout, their commands too: an editable install would need a build.
pwd -P >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/strongroom.pth"
# The managers under test are the ones that every other test starts.
ln -sf ../../../.venv/bin/strongroom ../../../.venv/bin/strongroom-agent "$venv/bin/"
touch "$stamp"
