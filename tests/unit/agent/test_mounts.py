"""Mounts: a service sees a whole set, read-only, in memory, for as long as it is entitled to."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import linux
from agent.mounts import File, ServiceMount, attached_services
from cluster.protocol.checks import Strength
from cluster.protocol.errors import (
    AlreadyExists,
    InvalidName,
    InvalidReference,
    InvariantViolation,
    MountRefused,
    StorageFull,
)
from cluster.protocol.secret_bytes import SecretBytes
from tests.support.mounts import mounts_taken_away, run_in_private_mounts

UID, GID = 61_001, 61_002


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with mounts_taken_away(tmp_path / "mounts") as directory:
        yield directory


def create(root: Path, service: str = "red", *, size: int = 262_144) -> ServiceMount:
    return ServiceMount.create_kernel(root, service, UID, GID, size, 64)


def file(target: str, value: bytes, **owner: int) -> File:
    return File(target, SecretBytes(value), **owner)


def names(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir()]


def test_mount_appears_read_only_and_hardened_with_its_first_set(root: Path) -> None:
    """Nothing is visible before the first publish; then all of it, with every flag."""
    mount = create(root)
    assert not (root / "red").is_mount()
    mount.publish([file("db", b"v1"), file("api", b"k1")])
    (entry,) = [e for e in linux.mount_table() if e.mount_point == str(root / "red")]
    assert {"ro", "nosuid", "nodev", "noexec"} <= entry.options
    assert {"noswap", "size=256k", "nr_inodes=64"} <= entry.super_options
    assert (root / "red" / "db").read_bytes() == b"v1"
    assert mount.held() == ("api", "db")
    assert mount.proof.strength is Strength.SECURE


def test_root_cannot_write_through_the_visible_path(root: Path) -> None:
    """Read-only is a flag of the mount, so it holds for uid 0 too."""
    create(root).publish([file("db", b"v1")])
    with pytest.raises(OSError, match="Read-only"):
        (root / "red" / "planted").touch()


def test_files_belong_to_the_service_and_only_it_can_list_them(root: Path) -> None:
    """0440 and the service's uid and gid; directories give others nothing."""
    create(root).publish([file("db", b"v1")])
    found = (root / "red" / "db").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (UID, GID, 0o440)
    directory = (root / "red").stat()
    assert (directory.st_uid, directory.st_gid) == (0, GID)
    assert stat.S_IMODE(directory.st_mode) == 0o750
    assert stat.S_IMODE((root / "red" / "..data" / "..manifest").stat().st_mode) == 0o400


def test_a_reference_may_choose_owner_and_mode(root: Path) -> None:
    """A foreign uid reaches its own file by name, but cannot list the others."""
    create(root).publish([file("tls.key", b"k", uid=70, gid=71, mode=0o400), file("db", b"v")])
    found = (root / "red" / "tls.key").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (70, 71, 0o400)
    assert stat.S_IMODE((root / "red").stat().st_mode) == 0o751
    assert (root / "red" / "db").stat().st_uid == UID


def test_a_reader_never_sees_a_mixed_set(root: Path) -> None:
    """Read through one opened `..data`, both files are of one version during 300 swaps."""
    mount = ServiceMount.create_kernel(root, "red", UID, GID, 8_388_608, 2_048)
    mount.publish([file("user", b"0"), file("password", b"0")])
    stop = threading.Event()
    pairs: list[tuple[bytes, bytes]] = []

    def read_pairs() -> None:
        while not stop.is_set():
            directory = os.open(root / "red" / "..data", os.O_RDONLY | os.O_DIRECTORY)
            pairs.append((_read_at(directory, "user"), _read_at(directory, "password")))
            os.close(directory)

    reader = threading.Thread(target=read_pairs)
    reader.start()
    try:
        for version in range(300):
            text = str(version).encode()
            mount.publish([file("user", text), file("password", text)])
    finally:
        stop.set()
        reader.join()
    assert all(user == password for user, password in pairs)
    assert len(set(pairs)) > 1


def _read_at(directory: int, name: str) -> bytes:
    fd = os.open(name, os.O_RDONLY, dir_fd=directory)
    with os.fdopen(fd, "rb") as opened:
        return opened.read()


def test_targets_vanish_with_the_set_that_named_them(root: Path) -> None:
    """What is no longer referenced has no name, and the others keep theirs."""
    mount = create(root)
    mount.publish([file("a", b"1"), file("b", b"2")])
    mount.publish([file("b", b"3"), file("c", b"4")])
    assert mount.held() == ("b", "c")
    visible = {name for name in names(root / "red") if not name.startswith("..")}
    assert visible == {"b", "c"}


def test_superseded_generation_waits_a_minute_for_open_readers(root: Path) -> None:
    """The old directory stays readable for 60 s from the first sweep, then it is gone."""
    mount = create(root)
    mount.publish([file("db", b"old")])
    old = (root / "red" / "..data").resolve()
    mount.publish([file("db", b"new")])
    assert mount.sweep(100.0) == 1
    assert mount.sweep(159.9) == 1
    assert (old / "db").read_bytes() == b"old"
    assert mount.sweep(160.0) == 0
    assert not old.exists()
    assert (root / "red" / "db").read_bytes() == b"new"


def test_superseded_generation_can_be_dropped_at_once(root: Path) -> None:
    """What must not linger does not wait for the sweep."""
    mount = create(root)
    mount.publish([file("db", b"old")])
    with (root / "red" / "db").open("rb", buffering=0) as reader:
        mount.publish([file("db", b"new")])
        mount.drop_superseded()
        assert reader.read() == bytes(3)
    assert mount.sweep(0.0) == 0
    assert mount.held() == ("db",)


def test_revoke_zeroes_what_a_reader_still_holds_open(root: Path) -> None:
    """An open descriptor outlives the mount, so the content goes first."""
    mount = create(root)
    mount.publish([file("db", b"secret")])
    with (root / "red" / "db").open("rb", buffering=0) as reader:
        mount.revoke()
        assert reader.read() == bytes(6)
    assert not (root / "red").exists()
    assert attached_services(root) == ()
    with pytest.raises(InvariantViolation):
        mount.publish([file("db", b"again")])


def test_cleared_mount_can_be_filled_again_in_place(root: Path) -> None:
    """A wipe empties the mount that running services hold; a later set appears in it."""
    mount = create(root)
    mount.publish([file("db", b"v1")])
    held_open = os.open(root / "red", os.O_RDONLY | os.O_DIRECTORY)
    try:
        mount.clear()
        assert mount.held() == ()
        assert mount.manifest() is None
        assert names(root / "red") == []
        mount.publish([file("db", b"v2")])
        assert _read_at(held_open, "db") == b"v2"
    finally:
        os.close(held_open)


ADOPT = """
import sys
from pathlib import Path
from agent.mounts import File, ServiceMount, attached_services
from cluster.protocol.secret_bytes import SecretBytes
root = Path(sys.argv[1])
(service,) = attached_services(root)
mount = ServiceMount.adopt(root, service)
assert mount.held() == ("db",), mount.held()
assert mount.manifest() == b"db=3", mount.manifest()
mount.publish([File("db", SecretBytes(b"v4"))], b"db=4")
"""


def test_a_restarted_agent_adopts_what_it_left(root: Path) -> None:
    """Another process finds, proves and updates the mount; the service's view stays read-only."""
    mount = create(root)
    mount.publish([file("db", b"v3")], b"db=3")
    mount.close()
    before = (root / "red").stat().st_dev
    subprocess.run([sys.executable, "-c", ADOPT, str(root)], check=True)
    found = (root / "red" / "db").stat()
    assert (found.st_dev, found.st_uid, found.st_gid) == (before, UID, GID)
    assert (root / "red" / "db").read_bytes() == b"v4"
    with pytest.raises(OSError, match="Read-only"):
        (root / "red" / "planted").touch()


def test_adopting_drops_a_set_that_was_never_published(root: Path) -> None:
    """An agent killed before the swap leaves a newer directory: it was never a promise."""
    mount = create(root)
    mount.publish([file("db", b"v1")])
    visible = os.open(root / "red", os.O_PATH | os.O_DIRECTORY)
    clone = linux.clone_mount(visible)
    linux.set_mount_attributes(clone, clear=linux.MOUNT_ATTR_RDONLY)
    half = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=clone)
    os.mkdir("..2", dir_fd=half)
    os.symlink("..data/half", "half", dir_fd=half)
    for fd in (half, clone, visible):
        os.close(fd)
    mount.close()
    adopted = ServiceMount.adopt(root, "red")
    assert adopted.held() == ("db",)
    assert sorted(names(root / "red")) == ["..1", "..data", "db"]


@pytest.mark.threat("T-20")
def test_adopting_refuses_what_is_not_ours(root: Path) -> None:
    """Nothing mounted, or somebody else's tmpfs: refused with what to do."""
    (root / "red").mkdir()
    with pytest.raises(MountRefused, match="not one of ours"):
        ServiceMount.adopt(root, "red")
    subprocess.run(["mount", "-t", "tmpfs", "other", root / "red"], check=True)
    with pytest.raises(MountRefused, match="not one of ours"):
        ServiceMount.adopt(root, "red")
    with pytest.raises(AlreadyExists):
        create(root)


NO_LONGER_SECURE = """
import subprocess, sys
from pathlib import Path
from agent.mounts import ServiceMount
from cluster.protocol.errors import MountRefused
root, swaps = Path(sys.argv[1]), sys.argv[2]
options = "size=64k,nosuid,nodev,noexec,mode=0750"
command = ["mount", "-t", "tmpfs", "-o", options, "strongroom:red:1:1", root / "red"]
subprocess.run(command, check=True)
generation = root / "red" / "..1"
generation.mkdir()
(generation / "db").write_text("left")
(root / "red" / "..data").symlink_to("..1")
(root / "red" / "db").symlink_to("..data/db")
assert ServiceMount.adopt(root, "red").held() == ("db",)
held = (root / "red" / "db").open("rb", buffering=0)
subprocess.run(["mount", "--bind", swaps, "/proc/swaps"], check=True)
try:
    ServiceMount.adopt(root, "red")
except MountRefused as error:
    print(error)
print(held.read(), (root / "red").exists())
"""


@pytest.mark.threat("T-21")
def test_adopting_a_mount_that_can_swap_now_empties_it(root: Path, tmp_path: Path) -> None:
    """Accepted while no swap was active; once there is, its content must not stay."""
    (root / "red").mkdir()
    swaps = tmp_path / "swaps"
    swaps.write_text("Filename Type Size Used Priority\n/swapfile file 1 0 -2\n")
    done = run_in_private_mounts(NO_LONGER_SECURE, str(root), str(swaps))
    *_, refusal, last = done.stdout.splitlines()
    assert "swapped out to /swapfile" in refusal, done.stderr
    assert last == f"{bytes(4)!r} False"


def test_full_mount_names_the_option_and_keeps_the_old_set(root: Path) -> None:
    """Out of space or inodes: the old set stands whole, nothing of the new one remains."""
    mount = create(root, size=65_536)
    mount.publish([file("db", b"v1")], b"m1")
    for files in ([file("db", b"x" * 70_000)], [file(f"f{n}", b"x") for n in range(64)]):
        with pytest.raises(StorageFull, match=r"size=64k, nr_inodes=64.*raise size="):
            mount.publish(files, b"m2")
        assert mount.held() == ("db",)
        assert mount.manifest() == b"m1"
        assert sorted(names(root / "red")) == ["..1", "..data", "db"]


@pytest.mark.threat("T-15")
@pytest.mark.parametrize(
    "target", ["..", "../db", "a/b", "/etc/passwd", "..data", ".hidden", "", "a\0b", "-f", "a\n"]
)
def test_hostile_targets_are_refused(root: Path, target: str) -> None:
    """A target is a plain name: it cannot leave its directory nor shadow the swap."""
    mount = create(root)
    with pytest.raises(InvalidName):
        mount.publish([file(target, b"v")])
    assert mount.held() == ()


def test_duplicate_targets_and_special_modes_are_refused(root: Path) -> None:
    """One name, one file; no setuid bit."""
    mount = create(root)
    with pytest.raises(InvalidReference):
        mount.publish([file("db", b"1"), file("db", b"2")])
    with pytest.raises(InvalidReference):
        mount.publish([file("db", b"1", mode=0o4755)])


@pytest.mark.threat("T-15")
@pytest.mark.parametrize("service", ["..", "a/b", "", "Red"])
def test_hostile_service_names_are_refused(root: Path, service: str) -> None:
    """A service name becomes a directory name."""
    with pytest.raises(InvalidName):
        create(root, service)
