"""Rollback detection: what may follow what was seen of a key."""

import pytest

from cluster.store import history
from cluster.store.history import RETURNING, History
from cluster.store.records import Kind

KEY = b"k"
LASTING = sorted(set(Kind) - RETURNING)


def past(kind: Kind, *states: tuple[int, bytes]) -> History:
    """Return a history that admitted the given (generation, ciphertext) states."""
    seen = History()
    for generation, sealed in states:
        assert seen.admit(kind, KEY, generation, sealed) is None
    return seen


@pytest.mark.parametrize("kind", Kind)
def test_a_higher_generation_follows(kind: Kind) -> None:
    assert past(kind, (1, b"a"), (2, b"b")).admit(kind, KEY, 3, b"c") is None


@pytest.mark.parametrize("kind", Kind)
def test_the_same_state_may_be_seen_again(kind: Kind) -> None:
    assert past(kind, (1, b"a"), (2, b"b")).admit(kind, KEY, 2, b"b") is None


@pytest.mark.parametrize("kind", Kind)
def test_a_lower_generation_is_a_rollback(kind: Kind) -> None:
    assert past(kind, (1, b"a"), (2, b"b")).admit(kind, KEY, 1, b"a") == "a generation went back"


@pytest.mark.parametrize("kind", Kind)
def test_one_generation_has_one_content(kind: Kind) -> None:
    assert past(kind, (1, b"a")).admit(kind, KEY, 1, b"b") is not None


def test_a_refused_state_is_not_remembered() -> None:
    seen = past(Kind.NODE, (5, b"a"))
    assert seen.admit(Kind.NODE, KEY, 4, b"b") is not None
    assert seen.admit(Kind.NODE, KEY, 5, b"a") is None


@pytest.mark.parametrize("kind", LASTING)
def test_an_id_that_is_never_reused_does_not_come_back(kind: Kind) -> None:
    seen = past(kind, (1, b"a"))
    seen.remove(KEY)
    assert seen.admit(kind, KEY, 99, b"b") == "a removed record came back"


@pytest.mark.parametrize("kind", sorted(RETURNING))
def test_an_id_that_is_reused_comes_back_above_its_floor(kind: Kind) -> None:
    seen = past(kind, (1, b"a"), (7, b"b"))
    seen.remove(KEY)
    assert seen.floor(KEY) == 7
    assert seen.admit(kind, KEY, 8, b"c") is None


@pytest.mark.parametrize("replayed", [(1, b"a"), (7, b"b")])
@pytest.mark.parametrize("kind", sorted(RETURNING))
def test_a_removed_state_is_not_replayed(kind: Kind, replayed: tuple[int, bytes]) -> None:
    seen = past(kind, (1, b"a"), (7, b"b"))
    seen.remove(KEY)
    assert seen.admit(kind, KEY, *replayed) == "a removed record was replayed"


def test_a_creator_that_lagged_behind_a_short_life_is_believed() -> None:
    # He saw revision 100; the record was created at 101, replaced up to 104 and removed meanwhile.
    seen = past(Kind.NAME, (101, b"a"), (104, b"b"))
    seen.remove(KEY)
    assert seen.admit(Kind.NAME, KEY, 101, b"c") is None
    # And then a state of the short life, whose generation is higher, is a replay all the same.
    assert seen.admit(Kind.NAME, KEY, 104, b"b") is not None


def test_a_key_that_was_recreated_unseen_counts_as_removed() -> None:
    assert past(Kind.NODE, (1, b"a")).admit(Kind.NODE, KEY, 2, b"b", recreated=True) is not None
    assert past(Kind.NAME, (1, b"a")).admit(Kind.NAME, KEY, 2, b"b", recreated=True) is None


def test_after_too_many_states_a_low_generation_is_not_believed() -> None:
    states = [(number, b"%d" % number) for number in range(100, 100 + history.MAX_SEALS)]
    seen = past(Kind.NAME, *states)
    seen.remove(KEY)
    assert seen.admit(Kind.NAME, KEY, 100, b"new") is not None


def test_the_oldest_removals_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_REMOVED", 2)
    seen = History()
    for key in (b"1", b"2", b"3"):
        seen.admit(Kind.NAME, key, 5, key)
        seen.remove(key)
    assert [seen.floor(key) for key in (b"1", b"2", b"3")] == [0, 5, 5]
