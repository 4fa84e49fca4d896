#!/bin/sh
# Install one part of the images below /out, from the hash-pinned locks. Run by the Dockerfile.
#
#   shared   what managers and agents both import      server   the managers' further dependencies
#   own      strongroom itself: /out/manager, /out/agent and, for applications, /out/app
set -eu

# What the agent imports. A package that is missing here shows when the agent's image is built.
shared=" cffi cryptography h11 httptools msgspec pycparser structlog typing-extensions websockets "
# What hatchling, which builds the wheel, is made of.
backend=" hatchling packaging pathspec pluggy trove-classifiers "

pins() { # lock, names, 1 to keep them or 0 to leave them out
    awk -v names="$2" -v keep="$3" '
        /^[A-Za-z0-9]/ { split($1, pin, "=="); chosen = (index(names, " " pin[1] " ") > 0) == keep }
        chosen' "$1"
}

pip() {
    # An offline copy carries the wheels: nothing is asked of an index then.
    if ls /wheels/*.whl >/dev/null 2>&1; then export PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels; fi
    /build/venv/bin/python -m pip --quiet --disable-pip-version-check --no-cache-dir "$@"
}

install_into() { # directory, lock
    pip install --require-hashes --no-deps --target "$1" -r "$2"
    rm -rf "$1/bin" # programs of dependencies, which nobody runs
}

launcher() { # file, module
    mkdir -p "$(dirname "$1")"
    printf '#!/usr/bin/env python3\nimport sys\n\nfrom %s import main\n\nsys.exit(main())\n' "$2" >"$1"
    chmod 0755 "$1"
}

install_own() {
    pins requirements-dev.lock "$backend" 1 >backend.lock
    pip install --require-hashes --no-deps -r backend.lock
    pip wheel --no-deps --no-build-isolation --wheel-dir dist .
    for image in manager agent; do
        /build/venv/bin/python -m pip --quiet --disable-pip-version-check install \
            --no-index --no-deps --target "/out/$image/lib" dist/*.whl
        rm -rf "/out/$image/lib/bin"
    done
    rm -rf /out/manager/lib/agent
    find /out/agent/lib/cluster -mindepth 1 -maxdepth 1 \
        ! -name protocol ! -name pki ! -name 'system.py' ! -name '__init__.py' ! -name py.typed \
        -exec rm -rf {} +
    launcher /out/manager/bin/strongroom cluster.cli.main
    launcher /out/agent/bin/strongroom-agent agent.cli.main
    mkdir -p /out/app
    # The image that gets it has this one's Python, which need not be Debian's: python:3.x has its own.
    PYTHONPATH=. /build/venv/bin/python -m agent.cli.zipapp /out/app/strongroom-agent "$(command -v python3)"
    chmod 0755 /out/app/strongroom-agent
}

case $1 in
shared) pins requirements.lock "$shared" 1 >shared.lock && install_into /out/shared shared.lock ;;
server) pins requirements.lock "$shared" 0 >server.lock && install_into /out/server server.lock ;;
own) install_own ;;
esac
