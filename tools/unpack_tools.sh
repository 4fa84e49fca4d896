#!/usr/bin/env bash
# Unpack Debian's etcd (two suites) and libfaketime into .tools, without installing anything.
#
# Installing etcd-server would start an open etcd under systemd; unpacking needs no root and enables nothing.
# apt gets a root of its own, so the host's package lists are neither needed nor touched. Signatures are
# checked against Debian's archive keyring, as always.
set -euo pipefail

tools=.tools
etcd_suites=(bookworm trixie)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

say() { printf '%s\n' "$*" >&2; }

host_suite() { # Debian's own name; elsewhere the oldest suite, whose C library asks for least
    local ID="" VERSION_CODENAME=""
    [[ ! -r /etc/os-release ]] || . /etc/os-release
    if [[ $ID == debian && -n $VERSION_CODENAME ]]; then echo "$VERSION_CODENAME"; else echo bookworm; fi
}

runs_etcd() { "$1/usr/bin/etcd" --version >/dev/null 2>&1; }

have_all() {
    local suite
    for suite in "${etcd_suites[@]}"; do runs_etcd "$tools/etcd-$suite" || return 1; done
    [[ -d $tools/faketime ]]
}

have_all && exit 0

if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null || [[ ! -r $keyring ]]; then
    if command -v etcd >/dev/null; then
        say "this is not Debian: using $(command -v etcd); tests that need libfaketime cannot run"
        exit 0
    fi
    say "etcd is needed, and this is not Debian (no apt-get or no $keyring);"
    say "put etcd 3.4 or 3.5 on PATH, or install the package debian-archive-keyring"
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 0755 "$work" # apt's unprivileged downloader must get in

mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        grep -E '/debian/?$' | head -n 1 || true
}

suite_apt() { # suite, program, arguments: apt with a root of its own for one suite
    local root=$work/$1 program=$2
    shift 2
    "$program" -qq -o Dir::State="$root" -o Dir::State::status="$root/status" -o Dir::Cache="$root" \
        -o Dir::Etc::sourcelist="$root/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Acquire::Languages=none -o Acquire::Retries=3 "$@"
}

prepare_suite() {
    local root=$work/$1
    [[ -d $root ]] && return
    mkdir -p "$root/lists/partial" "$root/archives/partial" "$root/deb"
    : >"$root/status"
    printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$uri" "$1" >"$root/sources.list"
    suite_apt "$1" apt-get update
    if [[ $(id -u) == 0 ]] && id _apt >/dev/null 2>&1; then chown _apt "$root/deb"; fi
}

unpack() { # suite, package, directory under .tools
    [[ ! -d $tools/$3 ]] || return 0
    say "unpacking $2 of $1 into $tools/$3"
    prepare_suite "$1"
    (cd "$work/$1/deb" && suite_apt "$1" apt-get download "$2")
    mkdir "$work/$3"
    dpkg -x "$work/$1/deb/$2"_*.deb "$work/$3"
    mkdir -p "$tools"
    mv -T "$work/$3" "$tools/$3"
}

uri=$(mirror)
if [[ -z $uri ]]; then
    say "apt's sources name no Debian mirror; add one to /etc/apt/sources.list"
    exit 1
fi
for suite in "${etcd_suites[@]}"; do
    runs_etcd "$tools/etcd-$suite" || rm -rf "$tools/etcd-$suite"
    unpack "$suite" etcd-server "etcd-$suite"
    runs_etcd "$tools/etcd-$suite" || { say "the etcd of $suite does not run on this machine"; exit 1; }
done
# libfaketime is loaded into our own processes, so it must match the host's C library.
unpack "$(host_suite)" libfaketime faketime
