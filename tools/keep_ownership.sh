#!/usr/bin/env bash
# Run a command; afterwards, under sudo, give what it wrote in the checkout back to the user who called sudo.
set -uo pipefail

give_back() {
    [[ $(id -u) == 0 && -n ${SUDO_UID:-} && -n ${SUDO_GID:-} ]] || return 0
    # Only in that user's own checkout, and never across a mount or through a link.
    [[ $(stat -c %u .) == "$SUDO_UID" ]] || return 0
    # A lab may run in another terminal, and gives its own files back when it ends.
    find . -xdev -path ./.lab -prune -o -uid 0 -exec chown -h "$SUDO_UID:$SUDO_GID" {} +
}
trap give_back EXIT

"$@"
