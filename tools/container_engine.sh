#!/usr/bin/env bash
# Run a command beside a container engine of its own: Debian's docker.io and docker-compose, in a Debian root and in
# mount, network and pid namespaces of their own. Nothing is installed on this machine, and whatever runs or is
# mounted ends with the engine's process 1, however this script ends.
#
#   tools/container_engine.sh COMMAND...
#
# COMMAND finds `docker` and `docker-compose` on its PATH, and in its environment
#   STRONGROOM_ENGINE_ROOT   the engine's root directory, as this machine sees it
#   STRONGROOM_LAB           a copy of the last commit below that root, with wheels and etcd: the build context
#   STRONGROOM_MEMORY        an empty directory in memory, for values and keys
#   BASE_IMAGE               an image made from Debian packages
set -euo pipefail

suite=${SUITE:-bookworm}
cache=build/cache
max_age_days=7
lab=/srv/strongroom
python_of_suite=3.11
# What a container may lock into memory. An engine without CAP_SYS_RESOURCE cannot raise its own limit.
memlock=$(ulimit -Hl)
if [[ $memlock == unlimited ]]; then memlock=-1; else memlock=$((memlock * 1024)); fi

say() { printf '%s\n' "$*" >&2; }

if [[ $(id -u) != 0 ]]; then
    say "a container engine needs root; run: sudo make test-containers"
    exit 1
fi
for program in mmdebstrap nsenter unshare setpriv; do
    command -v "$program" >/dev/null || { say "$program is missing; run: apt-get install -y $program"; exit 1; }
done

cgroups_of() { find /sys/fs/cgroup -depth -type d -path "*/$1*" 2>/dev/null || true; }

remove_cgroups() {
    local directory
    cgroups_of "$1" | while IFS= read -r directory; do rmdir "$directory" 2>/dev/null || true; done
}

clear_leftovers() { # of scripts that were killed: their engines went with them, their directories did not
    local left
    for left in /var/tmp/strongroom-engine.*; do
        [[ -d $left ]] || continue
        if [[ -s $left/owner ]]; then
            ! kill -0 "$(cat "$left/owner")" 2>/dev/null || continue
        elif [[ -n $(find "$left" -maxdepth 0 -mmin -1 2>/dev/null) ]]; then
            continue # not yet marked
        fi
        remove_cgroups "strongroom-${left##*.}"
        rm -rf --one-file-system "$left" "/dev/shm/${left##*/}"
    done
}

clear_leftovers
mkdir -p "$cache"
work=$(mktemp -d /var/tmp/strongroom-engine.XXXXXX)
echo $$ >"$work/owner"
chmod 0755 "$work" # apt's unprivileged downloader must get in
root=$work/root
memory=/dev/shm/${work##*/}
mkdir -m 0700 "$memory"
group=strongroom-${work##*.}
engine=""
pending=()
declare -A roots=()
# A program in namespaces of its own, which goes with all that it has started and mounted.
alone=(unshare --mount --propagation private --pid --fork --kill-child)

start() { # a program that keeps this script from hearing no signal, and that does not outlive it
    setpriv --pdeathsig KILL "$@" &
    pending+=($!)
}

finish() { # the oldest that was started
    local status=0
    wait "${pending[0]}" || status=$?
    pending=("${pending[@]:1}")
    return "$status"
}

end_engine() {
    trap '' INT TERM HUP
    if ((${#pending[@]})); then
        kill -TERM "${pending[@]}" 2>/dev/null || true
        sleep 1
        kill -KILL "${pending[@]}" 2>/dev/null || true
        wait "${pending[@]}" 2>/dev/null || true
    fi
    if [[ -n $engine ]]; then
        # Process 1 of the pid namespace: the kernel ends everything in it, and takes the mounts away.
        kill -KILL "$engine" 2>/dev/null || true
        wait "$engine" 2>/dev/null || true
    fi
    local _
    for _ in {1..20}; do # what was just ended may be there for a moment
        remove_cgroups "$group"
        rm -rf --one-file-system "$memory" "$work" 2>/dev/null || true
        [[ -e $work || -n $(cgroups_of "$group") ]] || break
        sleep 0.5
    done
}
trap end_engine EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        grep -m 1 -E '/debian/?$' || true
}

debian() { # name, variant, packages: begin to make a Debian root as a tar; it is kept for a week
    local options
    options=(--format=tar --variant="$2" --include="$3" --dpkgopt='path-exclude=/usr/share/man/*'
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*')
    # Its name tells what it is made of.
    roots[$1]=$cache/$1-$suite-$(sha256sum <<<"${options[*]}" | cut -c1-12).tar
    [[ -z $(find "${roots[$1]}" -mtime "-$max_age_days" 2>/dev/null) ]] || return 0
    say "making a Debian $suite with $3"
    TMPDIR=$work start "${alone[@]}" --mount-proc \
        mmdebstrap --quiet "${options[@]}" "$suite" "$work/$1.tar" $(mirror)
}

keep_roots() { # those that were made
    local name
    while ((${#pending[@]})); do finish; done
    for name in "${!roots[@]}"; do
        [[ -e $work/$name.tar ]] || continue
        find "$cache" -maxdepth 1 -name "$name-$suite*" -delete
        mv "$work/$name.tar" "${roots[$name]}"
    done
}

copy_checkout() { # the last commit, as `make test-fresh` does
    if [[ -n $(git status --porcelain --untracked-files=no) ]]; then
        say "note: images are built from the last commit; what is not committed is left out"
    fi
    mkdir -p "$root$lab/.wheels" "$root$lab/.tools/etcd-$suite/usr/bin"
    git archive HEAD | tar -x -C "$root$lab"
    cp ".tools/etcd-$suite/usr/bin/etcd" "$root$lab/.tools/etcd-$suite/usr/bin/"
}

fetch_wheels() { # for the image's Python, whatever this machine's is
    local lock=$work/lock wheels
    awk '/^[A-Za-z0-9]/ { keep = $1 ~ /^(hatchling|packaging|pathspec|pluggy|trove-classifiers)==/ } keep' \
        requirements-dev.lock | cat requirements.lock - >"$lock"
    wheels=$cache/wheels-$suite-$(sha256sum "$lock" | cut -c1-12)
    if [[ ! -d $wheels ]]; then
        say "fetching wheels"
        local machine platform platforms=()
        machine=$(uname -m)
        for platform in manylinux2014 manylinux_2_28 manylinux_2_34; do platforms+=(--platform "${platform}_$machine"); done
        start .venv/bin/python -m pip download --quiet --quiet --disable-pip-version-check --require-hashes --no-deps \
            --only-binary=:all: --implementation cp --python-version "$python_of_suite" "${platforms[@]}" \
            --dest "$work/wheels" -r "$lock"
        finish
        rm -rf "$cache/wheels-$suite"*
        mv -T "$work/wheels" "$wheels"
    fi
    cp "$wheels"/*.whl "$root$lab/.wheels/"
}

start_engine() {
    # shellcheck disable=SC2016
    setpriv --pdeathsig KILL "${alone[@]}" --net --ipc --uts bash -euc '
        root=$1 group=$2
        mount --bind "$root" "$root"
        mount -t proc proc "$root/proc"
        mount --rbind /sys "$root/sys"
        mount --rbind /dev "$root/dev"
        mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs "$root/run"
        mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/tmp"
        ip link set lo up 2>/dev/null || true
        # Not chroot: `docker exec` enters the root of a mount namespace, which must be a container there.
        cd "$root"
        pivot_root . mnt
        umount --lazy /mnt
        exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin bash -c "
            dockerd --host unix:///run/docker.sock --cgroup-parent /$group --storage-driver overlay2 \
                --userland-proxy=false --log-level warn >/var/log/dockerd.log 2>&1
            exit \$?"
    ' engine "$root" "$group" </dev/null >/dev/null 2>&1 &
    engine=$!
}

write_programs() { # commands that act inside the engine's namespaces
    mkdir "$work/bin"
    local name
    for name in docker docker-compose; do
        cat >"$work/bin/$name" <<PROGRAM
#!/bin/sh
exec nsenter --target \$(cat $work/pid) --mount --net --ipc --uts --pid --root -- \\
    env -i -C $lab PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \\
    BASE_IMAGE="\${BASE_IMAGE:-}" STRONGROOM_NOSWAP="\${STRONGROOM_NOSWAP-,noswap}" STRONGROOM_MEMLOCK="\${STRONGROOM_MEMLOCK:-$memlock}" \\
    COMPOSE_PROJECT_NAME="\${COMPOSE_PROJECT_NAME:-strongroom}" COMPOSE_FILE="\${COMPOSE_FILE:-docker-compose.yml}" \\
    DOCKER_BUILDKIT=0 COMPOSE_DOCKER_CLI_BUILD=0 $name "\$@"
PROGRAM
        chmod 0755 "$work/bin/$name"
    done
}

wait_for_engine() {
    local _
    for _ in $(seq 300); do
        if ! kill -0 "$engine" 2>/dev/null; then break; fi
        cat "/proc/$engine/task/$engine/children" >"$work/pid" 2>/dev/null || true
        if [[ -s $work/pid ]] && "$work/bin/docker" info >"$work/info.log" 2>&1; then return 0; fi
        sleep 0.2
    done
    say "the container engine did not start:"
    tail -n 20 "$root/var/log/dockerd.log" "$work/info.log" >&2 || true
    exit 1
}

# The packages of the engine are unpacked, and none of their scripts is run: three names are missing then.
debian engine extract bash,coreutils,mount,docker.io,docker-compose,iptables,iproute2
debian base minbase python3,python3-venv,ca-certificates
keep_roots
say "unpacking the engine"
mkdir -p "$root"/{proc,sys,dev,run,tmp,mnt}
chmod 0755 "$root"
tar -C "$root" --exclude='./dev/*' -xf "${roots[engine]}"
for name in iptables ip6tables; do ln -sf xtables-nft-multi "$root/usr/sbin/$name"; done
rm -rf "$root/var/run"
ln -s ../run "$root/var/run"
copy_checkout
fetch_wheels
write_programs
start_engine
wait_for_engine
say "importing the base image"
"$work/bin/docker" import - strongroom-base:"$suite" <"${roots[base]}" >/dev/null

export PATH=$work/bin:$PATH BASE_IMAGE=strongroom-base:$suite STRONGROOM_ENGINE_ROOT=$root STRONGROOM_LAB=$root$lab STRONGROOM_MEMORY=$memory
start "$@"
finish
