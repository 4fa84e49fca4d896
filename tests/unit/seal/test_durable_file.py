"""Files that are the old or the new, whole."""

import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.protocol.errors import AlreadyExists, IntegrityError, NotFound
from cluster.seal import durable_file


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let the kernel refuse writes beyond `size` bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_created_file_is_private_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "seal"
    durable_file.create(path, b"one")
    assert path.read_bytes() == b"one"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_nlink == 1
    assert names(tmp_path) == ["seal"]


def test_creating_never_replaces(tmp_path: Path) -> None:
    path = tmp_path / "seal"
    path.write_bytes(b"old")
    with pytest.raises(AlreadyExists):
        durable_file.create(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["seal"]


def test_replacing_writes_a_new_private_file(tmp_path: Path) -> None:
    path = tmp_path / "seal"
    path.write_bytes(b"old")
    path.chmod(0o644)
    with path.open("rb") as reader:
        durable_file.replace(path, b"new")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["seal"]


def test_what_a_crash_left_behind_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "seal"
    (tmp_path / ".seal.tmp").write_bytes(b"half")
    durable_file.create(path, b"one")
    (tmp_path / ".seal.tmp").hardlink_to(path)
    durable_file.replace(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(tmp_path) == ["seal"]


def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".seal.tmp").symlink_to(victim)
    durable_file.replace(tmp_path / "seal", b"new")
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "seal").is_symlink()


def test_a_disk_that_refuses_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "seal"
    durable_file.create(path, b"old")
    with file_size_limit(65_536), pytest.raises(OSError, match="File too large"):
        durable_file.replace(path, bytes(1_000_000))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["seal"]


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="strongroom init"):
        durable_file.read(tmp_path / "seal", 10)


def test_reading_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "seal"
    path.write_bytes(bytes(11))
    with pytest.raises(IntegrityError):
        durable_file.read(path, 10)
    assert durable_file.read(path, 11) == bytes(11)
