"""The locks pin what pyproject.toml asks for, by hash, and name no host."""

import re
import tomllib
from pathlib import Path

import pytest

LOCKS = ("requirements.lock", "requirements-dev.lock")
FUZZ_LOCK = "requirements-fuzz.lock"
RAFTOS_LOCK = "docs/lab/raftos/requirements.lock"
PEERS_LOCK = "tests/bench/peers/requirements.lock"
_PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)


def pins(text: str) -> dict[str, tuple[str, str]]:
    """Return (version, rest of the entry) by name."""
    return {name: (version, rest) for name, version, rest in _PIN.findall(text)}


def names(requirements: list[str]) -> set[str]:
    """Return the normalised names of requirement strings."""
    return {re.split(r"[\[<>=~! ;]", text)[0].lower().replace("_", "-") for text in requirements}


@pytest.mark.parametrize("lock", [*LOCKS, FUZZ_LOCK, PEERS_LOCK])
def test_every_pin_has_a_hash_and_no_line_names_a_host(root: Path, lock: str) -> None:
    text = (root / lock).read_text()
    assert [name for name, (_, rest) in pins(text).items() if "--hash=sha256:" not in rest] == []
    assert "://" not in text


def test_locks_hold_what_the_project_asks_for(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())
    runtime, dev = (pins((root / lock).read_text()) for lock in LOCKS)
    assert names(project["project"]["dependencies"]) - set(runtime) == set()
    assert names(project["dependency-groups"]["dev"]) - set(dev) == set()
    fuzz = pins((root / FUZZ_LOCK).read_text())
    assert names(project["dependency-groups"]["fuzz"]) - set(fuzz) == set()


def test_tests_run_on_the_versions_that_are_shipped(root: Path) -> None:
    runtime, dev = (pins((root / lock).read_text()) for lock in LOCKS)
    differing = {name for name, (version, _) in runtime.items() if dev[name][0] != version}
    assert differing == set()
    fuzz = pins((root / FUZZ_LOCK).read_text())
    assert {name for name in runtime if fuzz[name][0] != runtime[name][0]} == set()
