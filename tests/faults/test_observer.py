"""What an observer reads is what is in place, not what goes just then."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.generations import Generations, PlainFile
from cluster.protocol.secret_bytes import SecretBytes
from tests.faults.observer import read_in_place

OLD, NEW = b"old", b"new"


class Set:
    """A published set of one file, changed by the code of an agent."""

    def __init__(self, root: Path) -> None:
        self.place = root / "s0"
        self.directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self.generations = Generations(self.directory)
        self.publish(OLD)

    def publish(self, value: bytes) -> None:
        """Publish a value."""
        file = PlainFile("s0", SecretBytes(value), None, os.getgid(), 0o440)
        self.generations.publish([file], b"", os.getgid(), 0o750)

    def read_while(self, *changes: Callable[[], None]) -> Callable[[], bytes]:
        """Return a reader; while it reads for the n-th time, the n-th change is made."""
        waiting = iter(changes)

        def read() -> bytes:
            with self.place.open("rb", buffering=0) as file:
                next(waiting, lambda: None)()
                return file.read()

        return read


@pytest.fixture
def published(tmp_path: Path) -> Iterator[Set]:
    """A set with the old value."""
    one = Set(tmp_path)
    yield one
    os.close(one.directory)


def test_a_file_that_is_wiped_while_it_is_read_is_gone(published: Set) -> None:
    """Control: what the reader itself got are the zeros that the agent wrote over the value."""
    assert published.read_while(published.generations.clear)() == bytes(len(OLD))
    published.publish(OLD)
    wiped = published.read_while(published.generations.clear)
    assert read_in_place(published.place, wiped) is None


def test_the_next_value_is_read_when_the_old_one_is_dropped_under_the_reader(
    published: Set,
) -> None:
    def replace() -> None:
        published.publish(NEW)
        published.generations.drop_superseded()

    assert read_in_place(published.place, published.read_while(replace)) == NEW


def test_a_file_that_is_torn_where_it_is_stays_torn(published: Set) -> None:
    def tear() -> None:
        published.place.chmod(0o600)
        published.place.write_bytes(b"ol")

    assert read_in_place(published.place, published.read_while(tear)) == b"ol"


def test_nothing_is_read_where_nothing_is(published: Set) -> None:
    published.generations.clear()
    assert read_in_place(published.place, published.read_while()) is None
