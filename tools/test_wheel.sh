#!/usr/bin/env bash
# Build the wheel, install it away from the checkout, import each of its modules and run the unit tests
# against it: a file that the wheel forgets shows here and nowhere else.
#
#   tools/test_wheel.sh PYTHON [TESTS...]     some tests instead of tests/unit
set -euo pipefail

python=${1:-python3}
shift || true
checkout=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

.venv/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work/dist" .
# The same tree elsewhere, with other times and modes, as another person's machine has it.
(
    umask 077
    mkdir "$work/elsewhere"
    cp -R --no-preserve=all agent cluster pyproject.toml README.md LICENSE .gitignore "$work/elsewhere"
    find "$work/elsewhere" -exec touch --date=2001-02-03 {} +
    cd "$work/elsewhere"
    "$checkout/.venv/bin/python" -m pip wheel --quiet --no-deps --no-build-isolation \
        --wheel-dir "$work/again" .
)
cmp "$work"/dist/*.whl "$work"/again/*.whl || { echo "the same tree gave two wheels" >&2; exit 1; }
"$python" -m venv "$work/venv"
# The dependencies come from .venv by a .pth file; .venv's own .pth, which leads back to the checkout,
# is not read from there.
site_packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo "$site_packages" >"$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dependencies.pth"
"$work/venv/bin/python" -m pip install --quiet --no-deps --no-index --disable-pip-version-check "$work"/dist/*.whl

mkdir "$work/tests-only"
cp -R tests pyproject.toml "$work/tests-only/"
ln -s "$checkout/.tools" "$work/tests-only/.tools"
cd "$work/tests-only"
"$work/venv/bin/python" - "$work/venv" <<'PYTHON'
import importlib
import pkgutil
import sys
import agent, cluster
for package in (agent, cluster):
    assert package.__file__.startswith(sys.argv[1]), f"{package.__file__} is not the wheel's"
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
PYTHON
"$work/venv/bin/strongroom" --help >/dev/null
"$work/venv/bin/strongroom-agent" --help >/dev/null
"$work/venv/bin/python" -m pytest "${@:-tests/unit}" -m "not slow"
