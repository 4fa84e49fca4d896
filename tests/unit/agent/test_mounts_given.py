"""Given volumes: written only where the kernel itself says that it is a private tmpfs."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.mount_proof import prove
from agent.mounts import File, ServiceMount
from cluster.protocol.checks import Strength
from cluster.protocol.errors import InvalidReference, MountRefused
from cluster.protocol.secret_bytes import SecretBytes
from tests.support.mounts import (
    MEMORY_ONLY,
    mount_filesystem,
    mounts_taken_away,
    reachable_directory,
    run_in_private_mounts,
)

GID = 61_002
OWNED = f"{MEMORY_ONLY},mode=2750,gid={GID}"


@pytest.fixture
def root() -> Iterator[Path]:
    with reachable_directory() as parent, mounts_taken_away(parent / "volumes") as directory:
        yield directory


def file(target: str, value: bytes, uid: int | None = None, gid: int | None = None) -> File:
    return File(target, SecretBytes(value), uid, gid)


def test_volume_gets_files_of_the_agent_and_the_volumes_group(root: Path) -> None:
    """Owner the agent, group the volume's, 0440; the proof is secure."""
    mount = ServiceMount.given(mount_filesystem(root / "red", "tmpfs", OWNED), "red")
    mount.publish([file("db", b"v1")])
    found = (root / "red" / "db").stat()
    assert (found.st_uid, found.st_gid) == (os.geteuid(), GID)
    assert stat.S_IMODE(found.st_mode) == 0o440
    assert mount.proof.strength is Strength.SECURE


def test_revoked_volume_is_empty_but_stays_mounted(root: Path) -> None:
    """The mount is not ours to take away; everything in it is."""
    path = mount_filesystem(root / "red", "tmpfs", OWNED)
    mount = ServiceMount.given(path, "red")
    mount.publish([file("db", b"v1")])
    mount.revoke()
    assert path.is_mount()
    assert list(path.iterdir()) == []


def test_volume_keeps_its_set_over_a_restart(root: Path) -> None:
    """A second agent on the same volume finds the files and the manifest."""
    path = mount_filesystem(root / "red", "tmpfs", OWNED)
    first = ServiceMount.given(path, "red")
    first.publish([file("db", b"v1")], b"db=1")
    first.close()
    second = ServiceMount.given(path, "red")
    assert second.held() == ("db",)
    assert second.manifest() == b"db=1"


@pytest.mark.parametrize(("uid", "gid"), [(70, None), (None, 71), (0, GID)])
def test_volume_refuses_an_owner_it_cannot_give(
    root: Path, uid: int | None, gid: int | None
) -> None:
    """An explicit uid or another group is refused; the volume's own group is no wish at all."""
    mount = ServiceMount.given(mount_filesystem(root / "red", "tmpfs", OWNED), "red")
    with pytest.raises(InvalidReference, match="given volume"):
        mount.publish([file("db", b"v1", uid, gid)])
    mount.publish([file("db", b"v1", None, GID)])


@pytest.mark.threat("T-20")
@pytest.mark.parametrize(
    ("fs_type", "options", "reason"),
    [
        ("ramfs", "mode=2750", "not a tmpfs"),
        ("tmpfs", "size=1m,noswap,nosuid,nodev,mode=2750", "without noexec"),
        ("tmpfs", "size=1m,noswap,mode=2750", "without nosuid,nodev,noexec"),
        ("tmpfs", f"{MEMORY_ONLY},mode=2770", "mode 2770"),
        ("tmpfs", f"{MEMORY_ONLY},mode=1777", "mode 1777"),
        ("tmpfs", f"{MEMORY_ONLY},mode=2750,uid=70", "owner 70"),
    ],
)
def test_unsafe_mounts_are_refused(root: Path, fs_type: str, options: str, reason: str) -> None:
    """Each refusal names what is wrong; the same test with OWNED would pass."""
    path = mount_filesystem(root / "red", fs_type, options)
    with pytest.raises(MountRefused, match=reason):
        ServiceMount.given(path, "red")


@pytest.mark.threat("T-20")
def test_a_directory_on_disk_is_refused(root: Path) -> None:
    """The place where a forgotten mount would put every secret on a disk."""
    (root / "red").mkdir()
    with pytest.raises(MountRefused, match="not the root of a mount"):
        ServiceMount.given(root / "red", "red")
    with pytest.raises(MountRefused, match="no such file"):
        ServiceMount.given(root / "missing", "red")


@pytest.mark.threat("T-20")
def test_a_directory_inside_a_tmpfs_is_refused(root: Path) -> None:
    """Others could share the mount, so it must be the service's own."""
    (mount_filesystem(root / "shared", "tmpfs", OWNED) / "red").mkdir()
    with pytest.raises(MountRefused, match="not the root of a mount"):
        ServiceMount.given(root / "shared" / "red", "red")


@pytest.mark.threat("T-20")
def test_a_symlink_to_a_good_volume_is_refused(root: Path) -> None:
    """Whoever may change the link could move the secrets."""
    path = mount_filesystem(root / "blue", "tmpfs", OWNED)
    (root / "red").symlink_to(path)
    with pytest.raises(MountRefused):
        ServiceMount.given(root / "red", "red")


@pytest.mark.threat("T-25")
@pytest.mark.parametrize("entry", ["index.html", "db", "..data", "..1"])
def test_planted_entries_are_refused(root: Path, entry: str) -> None:
    """An image's files copied up into the volume must not pass for secrets."""
    path = mount_filesystem(root / "red", "tmpfs", OWNED)
    (path / entry).write_text("planted")
    with pytest.raises(MountRefused, match="unknown entries"):
        ServiceMount.given(path, "red")


@pytest.mark.threat("T-25")
def test_planted_symlinks_are_refused(root: Path) -> None:
    """A link of ours has one possible content."""
    path = mount_filesystem(root / "red", "tmpfs", OWNED)
    (path / "db").symlink_to("/etc/passwd")
    with pytest.raises(MountRefused, match="unknown entries"):
        ServiceMount.given(path, "red")


SWAP = """
import subprocess, sys
from pathlib import Path
from agent.mounts import ServiceMount
from cluster.protocol.errors import MountRefused
subprocess.run(["mount", "--bind", sys.argv[2], "/proc/swaps"], check=True)
try:
    print(ServiceMount.given(Path(sys.argv[1]), "red").proof.strength)
except MountRefused as error:
    print(error)
"""
SWAP_HEADER = "Filename Type Size Used Priority\n"


@pytest.mark.threat("T-21")
@pytest.mark.parametrize(
    ("options", "swaps", "expected"),
    [
        ("noswap,", "/swapfile file 1 0 -2\n", "secure"),
        ("", "", "weak"),
        ("", "/swapfile file 1 0 -2\n", "swapped out to /swapfile"),
    ],
)
def test_swappable_memory_is_weak_or_refused(
    root: Path, tmp_path: Path, options: str, swaps: str, expected: str
) -> None:
    """Without noswap a tmpfs is accepted only while no swap is active, and called weak."""
    given = f"{options}size=256k,nosuid,nodev,noexec,mode=2750"
    path = mount_filesystem(root / "red", "tmpfs", given)
    listing = tmp_path / "swaps"
    listing.write_text(SWAP_HEADER + swaps)
    done = run_in_private_mounts(SWAP, str(path), str(listing))
    assert expected in done.stdout.splitlines()[-1], done.stderr


UNPRIVILEGED_AGENT = """
import os, sys
from pathlib import Path
from agent.mounts import File, ServiceMount
from cluster.protocol.secret_bytes import SecretBytes
os.setgroups([])
os.setresgid(10_000, 10_000, 10_000)
os.setresuid(10_000, 10_000, 10_000)
os.umask(0o077)
mount = ServiceMount.given(Path(sys.argv[1]), "red")
mount.publish([File("db", SecretBytes(b"v1"))])
mount.publish([File("db", SecretBytes(b"v2"))])
mount.drop_superseded()
"""


def test_an_agent_without_capabilities_serves_a_volume(root: Path) -> None:
    """Uid 10000, no capability, outside the group: the setgid directory gives files their group."""
    options = f"{MEMORY_ONLY},mode=2750,uid=10000,gid={GID}"
    path = mount_filesystem(root / "red", "tmpfs", options)
    subprocess.run([sys.executable, "-c", UNPRIVILEGED_AGENT, str(path)], check=True)
    found = (path / "db").stat()
    assert (found.st_uid, found.st_gid) == (10_000, GID)
    assert (path / "db").read_bytes() == b"v2"
    assert len(list(path.iterdir())) == 3


def test_a_tmpfs_without_limit_is_weak(root: Path) -> None:
    """No limit on size is weak: one service could eat the node's memory."""
    options = "size=0,noswap,nosuid,nodev,noexec,mode=2750"
    path = mount_filesystem(root / "red", "tmpfs", options)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        proof = prove(directory, str(path))
    finally:
        os.close(directory)
    assert [check.name for check in proof.checks if check.strength is Strength.WEAK] == ["size"]
    assert subprocess.run(["mountpoint", "-q", path], check=False).returncode == 0
