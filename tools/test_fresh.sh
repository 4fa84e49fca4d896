#!/usr/bin/env bash
# Run the README's commands as root of a minimal Debian that has python3, make and git and nothing else of ours,
# so that a set-up step which only this machine has shows. What is tested is the last commit.
#
#   tools/test_fresh.sh [COMMAND...]     one command instead of the README's
#   SUITE=trixie tools/test_fresh.sh     another Debian
#
# It all happens in a mount and pid namespace of its own: mounts and processes left over end with it.
set -euo pipefail

suite=${SUITE:-bookworm}
cache=build/cache/debian-$suite.tar
max_age_days=7

say() { printf '%s\n' "$*" >&2; }

if [[ $(id -u) != 0 ]]; then
    say "test-fresh makes a Debian root and needs to be root; run: sudo make test-fresh"
    exit 1
fi
if ! command -v mmdebstrap >/dev/null; then
    say "test-fresh needs mmdebstrap; run: apt-get install -y mmdebstrap"
    exit 1
fi
if [[ -n $(git status --porcelain --untracked-files=no) ]]; then
    say "note: changes that are not committed are not tested"
fi

root=$(mktemp -d /var/tmp/strongroom-fresh.XXXXXX)
trap 'rm -rf --one-file-system "$root"' EXIT

make_root() {
    if [[ -z $(find "$cache" -mtime "-$max_age_days" 2>/dev/null) ]]; then
        say "making a minimal Debian $suite"
        mkdir -p "$(dirname "$cache")"
        local mirror
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
            grep -m 1 -E '/debian/?$' || true)
        mmdebstrap --quiet --format=tar --variant=minbase --include=python3,make,git,ca-certificates \
            "$suite" "$cache.new" ${mirror:+"$mirror"}
        mv "$cache.new" "$cache"
    fi
    chmod 0755 "$root"
    tar -C "$root" --exclude='./dev/*' -xf "$cache"
}

# How this machine reaches the network is not what is under test: the root gets the same resolver,
# certificate authorities and proxies.
carry_network_settings() {
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
    apt-config dump | grep -iE '^Acquire::https?::Proxy' >"$root/etc/apt/apt.conf.d/80proxy" || true
    local authorities=(/usr/local/share/ca-certificates/*.crt)
    if [[ -e ${authorities[0]} ]]; then
        cp "${authorities[@]}" "$root/usr/local/share/ca-certificates/"
        chroot "$root" update-ca-certificates >/dev/null 2>&1
    fi
}

environment() { # the assignments that `env -i` gets, one a line
    echo "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    printf '%s\n' HOME=/root LANG=C.UTF-8 PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
        PIP_ROOT_USER_ACTION=ignore
    env | grep -iE '^(https?_proxy|no_proxy|all_proxy)=' || true
    env | grep -E '^PIP_(DEFAULT_TIMEOUT|RETRIES|TRUSTED_HOST|INDEX_URL|EXTRA_INDEX_URL)=' |
        grep -v 'file:' || true
    local option value
    for option in index-url extra-index-url; do
        value=$(python3 -m pip config get "global.$option" 2>/dev/null || true)
        if [[ $value == http* ]]; then echo "PIP_$(tr a-z- A-Z_ <<<"$option")=$value"; fi
    done
}

readme_commands() { # the commands a reader types in the checkout: the README's lines that start with make
    grep -oE '^ *(\$ )?make (lab|test)\b' README.md | sed -E 's/^ *(\$ )?//' | awk '!seen[$0]++'
}

run_inside() {
    local command=$1
    say "== $command, in a fresh Debian $suite"
    local variables
    mapfile -t variables < <(environment)
    # shellcheck disable=SC2016
    unshare --mount --propagation private --pid --fork --kill-child bash -euc '
        root=$1 command=$2
        shift 2
        # Onto itself: what unshares mounts inside changes the propagation of "/", which must be one.
        mount --bind "$root" "$root"
        mount -t proc proc "$root/proc"
        mount --rbind /sys "$root/sys"
        mount --rbind /dev "$root/dev"
        mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs "$root/run"
        # The trailing exit keeps bash as process 1, which reaps orphans.
        exec chroot "$root" env -i "$@" bash -c "cd /root/strongroom && $command; exit \$?" </dev/null
    ' fresh "$root" "$command" "${variables[@]}"
}

make_root
carry_network_settings
git clone --quiet --no-hardlinks "file://$PWD" "$root/root/strongroom"

if [[ $# -gt 0 ]]; then
    run_inside "$*"
    exit
fi
mapfile -t commands < <(readme_commands)
if [[ ${#commands[@]} -ne 2 ]]; then
    say "README.md names ${#commands[@]} of the commands make lab and make test; it must name both"
    exit 1
fi
for command in "${commands[@]}"; do run_inside "$command"; done
