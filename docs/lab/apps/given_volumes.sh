#!/bin/sh
# Mounts a tmpfs for each named service below a directory, then runs a command: what an administrator
# or a container engine does for an agent that may not mount by itself.
#     given_volumes.sh DIRECTORY SERVICE ... -- COMMAND ...
set -eu
directory=$1
shift
while [ "$1" != -- ]; do
    mkdir -p "$directory/$1"
    mount -t tmpfs -o size=1m,nr_inodes=256,mode=2750,nosuid,nodev,noexec "lab-$1" "$directory/$1"
    shift
done
shift
exec "$@"
