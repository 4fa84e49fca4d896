"""A page that held a value is overwritten before it is given back: kernels do not clear it by
default.

A reader that maps the file keeps the very page, so through its eyes the tests see what the kernel
gets back. What lies in pages that nobody maps any more cannot be looked at from here: there is no
/proc/kcore and no /dev/mem to look through, and where there is, root reads everything anyway.
"""

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent import generations
from agent.generations import SUPERSEDED_AGE_S
from agent.mounts import File, ServiceMount
from cluster.protocol.secret_bytes import SecretBytes
from tests.support.mounts import mounts_taken_away, reachable_directory

pytestmark = [pytest.mark.needs_root, pytest.mark.threat("T-18")]

CANARY = b"canary-7f3a"
VALUE = (b"x" * 2_000 + CANARY) * 5
"""Several pages."""
AT = 0.0

Drop = Callable[[ServiceMount], object]


def supersede_and_sweep(mount: ServiceMount) -> None:
    mount.publish([File("db", SecretBytes(b"new"), None, None)])
    mount.sweep(AT)
    mount.sweep(AT + SUPERSEDED_AGE_S)


def supersede_at_once(mount: ServiceMount) -> None:
    mount.publish([File("db", SecretBytes(b"new"), None, None)])
    mount.drop_superseded()


DROPS = [ServiceMount.revoke, ServiceMount.clear, supersede_and_sweep, supersede_at_once]


@pytest.fixture
def root() -> Iterator[Path]:
    with reachable_directory() as parent, mounts_taken_away(parent / "mounts") as directory:
        yield directory


def what_is_given_back(root: Path, drop: Drop) -> bytes:
    """Return what is in the pages of a value that was dropped while a reader had them mapped."""
    mount = ServiceMount.create_kernel(root, "red", 61_001, 61_001, 1_048_576, 64)
    mount.publish([File("db", SecretBytes(VALUE), None, None)])
    with (
        (root / "red" / "db").open("rb") as reader,
        mmap.mmap(reader.fileno(), 0, prot=mmap.PROT_READ) as pages,
    ):
        assert pages[:] == VALUE
        drop(mount)
        left = pages[:]
    mount.close()
    return left


@pytest.mark.parametrize("drop", DROPS)
def test_pages_of_a_value_are_overwritten(root: Path, drop: Drop) -> None:
    assert what_is_given_back(root, drop) == bytes(len(VALUE))


@pytest.mark.parametrize("drop", DROPS)
def test_pages_keep_the_value_where_nothing_overwrites_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, drop: Drop
) -> None:
    """The control: a file that is only removed leaves its pages as they are."""
    monkeypatch.setattr(generations, "_overwrite", lambda *_: None)
    assert CANARY in what_is_given_back(root, drop)
