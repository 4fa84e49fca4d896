#!/bin/sh
# Wait until a service's files are there, then become the program: when_ready.sh FILE PROGRAM...
set -eu

file=$1
shift
if [ ! -e "$file" ]; then
    echo "waiting for $file; create the secret and the service, see docs/tutorial/compose.md" >&2
    while [ ! -e "$file" ]; do sleep 0.3; done
fi
exec "$@"
