"""A manager's directories and its disk, judged."""

import os
from pathlib import Path

import pytest

from cluster.doctor.directories import (
    LITTLE_BYTES,
    SLOW_FLUSH_S,
    TOO_LITTLE_BYTES,
    directory_checks,
    flush_check,
    provider_check,
    space_check,
)
from cluster.protocol.checks import Strength
from cluster.system import SystemClock

ROOT = 0


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("data", "run"):
        (tmp_path / name).mkdir(mode=0o700)
    (tmp_path / "data" / "engine").mkdir(mode=0o755)
    (tmp_path / "data" / "engine" / "store.db").write_bytes(b"ciphertext")
    return tmp_path


def found(place: Path, provider: Path | None = None) -> dict[str, Strength]:
    checks = directory_checks(place / "data", place / "run", provider, ROOT, SystemClock())
    return {check.name: check.strength for check in checks}


def test_private_directories_on_a_disk_are_secure(place: Path) -> None:
    assert found(place)["data directory"] is Strength.SECURE
    assert found(place)["run directory"] is Strength.SECURE
    assert found(place)["disk flush"] in {Strength.SECURE, Strength.WEAK}


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701])
def test_a_directory_that_others_enter_is_insecure(place: Path, mode: int) -> None:
    (place / "data").chmod(mode)
    assert found(place)["data directory"] is Strength.INSECURE


def test_a_file_of_somebody_else_is_insecure(place: Path) -> None:
    os.chown(place / "data" / "engine" / "store.db", 12_345, 12_345)
    assert found(place)["data directory"] is Strength.INSECURE


def test_a_link_is_no_directory_of_the_managers(place: Path) -> None:
    (place / "data").rename(place / "elsewhere")
    (place / "data").symlink_to(place / "elsewhere")
    assert found(place)["data directory"] is Strength.INSECURE


def test_data_in_memory_are_insecure() -> None:
    here = Path("/dev/shm")
    checks = directory_checks(here, here, None, ROOT, SystemClock())
    assert {c.name: c.strength for c in checks}["data on disk"] is Strength.INSECURE


def test_looking_leaves_nothing_behind(place: Path) -> None:
    before = sorted(place.rglob("*"))
    found(place)
    assert sorted(place.rglob("*")) == before


def test_directories_that_are_not_there_are_said(place: Path) -> None:
    (place / "run").rmdir()
    assert found(place)["run directory"] is Strength.WEAK


def test_a_provider_file_is_weak_at_best(place: Path) -> None:
    beside, shared = place / "key", Path("/dev/shm") / f"strongroom-test-{os.getpid()}"
    beside.touch(mode=0o400)
    assert provider_check(beside, place / "data", ROOT).strength is Strength.INSECURE
    shared.touch(mode=0o400)
    try:
        assert provider_check(shared, place / "data", ROOT).strength is Strength.WEAK
        shared.chmod(0o440)
        assert provider_check(shared, place / "data", ROOT).strength is Strength.INSECURE
    finally:
        shared.unlink()
    assert found(place, beside)["unlock key file"] is Strength.INSECURE


@pytest.mark.parametrize(
    ("free_bytes", "free_files", "strength"),
    [
        (LITTLE_BYTES, 1_000, Strength.SECURE),
        (LITTLE_BYTES, -1, Strength.SECURE),
        (LITTLE_BYTES - 1, 1_000, Strength.WEAK),
        (TOO_LITTLE_BYTES - 1, 1_000, Strength.INSECURE),
        (LITTLE_BYTES, 0, Strength.INSECURE),
    ],
)
def test_space_is_judged_in_bytes_and_files(
    free_bytes: int, free_files: int, strength: Strength
) -> None:
    assert space_check(free_bytes, free_files).strength is strength


def test_a_slow_disk_is_weak_by_its_median() -> None:
    assert flush_check([SLOW_FLUSH_S / 2] * 3 + [1.0]).strength is Strength.SECURE
    assert flush_check([SLOW_FLUSH_S * 2] * 3).strength is Strength.WEAK
