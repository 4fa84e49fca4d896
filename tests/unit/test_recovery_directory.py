"""A recovery cut short leaves the old data or the new ones, in every state of the disk."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.config import Address, Config
from cluster.engine_start import SQLITE_FILE
from cluster.protocol.errors import Conflict, Unavailable
from cluster.recovery_directory import RecoveryDirectory


@pytest.fixture
def place(tmp_path: Path) -> RecoveryDirectory:
    address = Address("127.0.0.1", 1)
    place = RecoveryDirectory(
        Config("m1", "127.0.0.1", tmp_path, tmp_path, address, address, address)
    )
    _hold(place.member, "old")
    return place


def _hold(directory: Path, content: str) -> None:
    (directory / "member").mkdir(parents=True)
    (directory / "member" / "db").write_text(content)


def _held(place: RecoveryDirectory) -> str:
    return (place.member / "member" / "db").read_text()


def _names(place: RecoveryDirectory) -> set[str]:
    return {path.name for path in place.config.engine_dir.iterdir()}


def test_copy_leaves_what_it_copies(place: RecoveryDirectory) -> None:
    place.begin()
    (place.survivor / "member" / "db").write_text("changed by who read it")
    assert _held(place) == "old"


@pytest.mark.parametrize("left", [("survivor",), ("survivor", "recovered"), ("recovered",)])
def test_undecided_recovery_is_wiped(place: RecoveryDirectory, left: tuple[str, ...]) -> None:
    for name in left:
        _hold(place.config.engine_dir / name, "half")
    place.settle()
    assert _names(place) == {"member"}
    assert _held(place) == "old"


def _decided(place: RecoveryDirectory) -> Iterator[None]:
    """Go from the decision to the end as `settle` does, pausing where a crash could come."""
    _hold(place.recovered, "new")
    place.decide()
    yield
    place.recovered.rename(place.member)
    yield
    (place.config.engine_dir / SQLITE_FILE).unlink(missing_ok=True)
    yield
    place.given_up.rename(place.survivor)
    yield
    shutil.rmtree(place.survivor)
    yield


@pytest.mark.parametrize("crash", range(5))
def test_decided_recovery_is_carried_out(place: RecoveryDirectory, crash: int) -> None:
    """Wherever it was cut short; and what a migration left of SQLite, which names an engine that is
    no more, goes with it."""
    (place.config.engine_dir / SQLITE_FILE).write_text("a tombstone")
    steps = _decided(place)
    for _ in range(crash + 1):
        next(steps)
    place.settle()
    assert _names(place) == {"member"}
    assert _held(place) == "new"
    place.settle()
    assert _held(place) == "new"


@pytest.mark.parametrize("left", ["survivor", "recovered"])
def test_what_cannot_be_removed_is_named(place: RecoveryDirectory, left: str) -> None:
    """It would be in the way of what comes next; once it is gone, all goes on."""
    stubborn = place.config.engine_dir / left
    stubborn.write_text("no directory")
    with pytest.raises(Unavailable, match=str(stubborn)):
        place.settle()
    stubborn.unlink()
    place.settle()
    assert _names(place) == {"member"}


def test_half_a_copy_never_takes_the_place_of_data_that_are_gone(place: RecoveryDirectory) -> None:
    """Without a decision nothing does: then the manager says that its data are gone."""
    _hold(place.recovered, "half")
    shutil.rmtree(place.member)
    place.settle()
    assert not place.member.exists()


def test_disk_that_is_too_small_is_told_before_anything_is_copied(
    place: RecoveryDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.require_space()
    with (place.member / "member" / "wal").open("wb") as file:
        file.write(bytes(1 << 20))
    usage = shutil.disk_usage(place.config.engine_dir)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1 << 20))
    with pytest.raises(Conflict, match="make room first"):
        place.require_space()


def test_no_engine_no_work(place: RecoveryDirectory) -> None:
    shutil.rmtree(place.config.engine_dir)
    place.settle()
    assert not place.config.engine_dir.exists()
