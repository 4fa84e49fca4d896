#!/bin/sh
# Join by the token that the bootstrap puts on a tmpfs volume, if this node has not joined; then run the agent.
#
#   join-and-run NODE TOKEN_FILE MANAGER:PORT[,MANAGER:PORT...] FLAG...     the flags are those of `run`
set -eu

node=$1 token=$2 managers=$3
shift 3
data=/var/lib/strongroom-agent

if [ ! -e "$data/identity.json" ]; then
    if [ ! -e "$token" ]; then
        echo "$node: waiting for a join token in $token; the service bootstrap brings one" >&2
        while [ ! -e "$token" ]; do sleep 0.5; done
    fi
    asked=""
    for manager in $(echo "$managers" | tr , ' '); do asked="$asked --manager $manager"; done
    # shellcheck disable=SC2086  # host names have no blanks
    if ! strongroom-agent join $asked --name "$node" --token-file "$token"; then
        echo "$node: not joined; start the service bootstrap again, it brings another token" >&2
        rm -f "$token"
        exit 1
    fi
    rm -f "$token"
fi
exec strongroom-agent run "$@"
