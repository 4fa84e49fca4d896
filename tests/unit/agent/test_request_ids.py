"""Which requests the agent's log tells of: each until all that was asked for is in place."""

import pytest

from agent import effects
from agent.session import RETRY_FAILED_S
from cluster.protocol import wire
from cluster.protocol.wire import VersionKey
from tests.simulation.naive_manager import service
from tests.unit.agent.test_session import RED, new_session, opened, revision, values

FIRST, SECOND = "a" * 26, "b" * 26
HELD = wire.ServiceResult(RED, (VersionKey("a", 1),))
BROKEN = wire.ServiceResult(RED, (), "broken")


def told(todo: list[effects.Effect]) -> list[tuple[str, ...]]:
    """Return the request ids of each Apply."""
    return [effect.request_ids for effect in todo if isinstance(effect, effects.Apply)]


def test_a_request_is_told_of_once_when_everything_is_in_place() -> None:
    session = opened(new_session())
    assert told(session.on_message(1, wire.Snapshot(revision(1), (), (FIRST,)), 0.0)) == [(FIRST,)]
    session.on_applied(revision(1), (), (), 0.0)
    delta = wire.Delta(revision(1), revision(2), (), (), (SECOND,))
    assert told(session.on_message(1, delta, 0.0)) == [(SECOND,)]
    session.on_applied(revision(2), (), (), 0.0)
    assert told(session.on_certificates(0.0)) == [()]


def test_a_request_is_told_of_again_until_nothing_failed() -> None:
    """With what is asked for meanwhile: the newest first."""
    session = opened(new_session())
    session.on_message(1, values(("a", 1)), 0.0)
    red = service("red", ("a", 1))
    session.on_message(1, wire.Snapshot(revision(1), (red,), (FIRST,)), 0.0)
    session.on_applied(revision(1), (BROKEN,), (), 0.0)
    delta = wire.Delta(revision(1), revision(2), (), (), (SECOND, FIRST))
    assert told(session.on_message(1, delta, 0.0)) == [(SECOND, FIRST)]
    session.on_applied(revision(2), (BROKEN,), (), 0.0)
    assert told(session.on_tick(RETRY_FAILED_S)) == [(SECOND, FIRST)]
    session.on_applied(revision(2), (HELD,), (), RETRY_FAILED_S)
    assert told(session.on_certificates(RETRY_FAILED_S)) == [()]


def test_a_request_whose_file_waits_for_a_lease_is_told_of_with_the_file() -> None:
    session = opened(new_session())
    session.on_message(1, values(("a", 1)), 0.0)
    snapshot = wire.Snapshot(revision(1), (service("red", ("a", 1), wipe=True),), (FIRST,))
    (work,) = [e for e in session.on_message(1, snapshot, 0.0) if isinstance(e, effects.Apply)]
    assert work.services[0].files == ()
    session.on_applied(revision(1), (wire.ServiceResult(RED, ()),), (), 0.0)
    assert told(session.on_message(1, wire.Lease(1, 60.0), 0.0)) == [(FIRST,)]
    session.on_applied(revision(1), (HELD,), (), 0.0)
    assert told(session.on_certificates(0.0)) == [()]


def test_a_manifest_that_was_not_accepted_tells_of_nothing() -> None:
    session = opened(new_session())
    session.on_message(1, wire.Snapshot(revision(1), ()), 0.0)
    gap = wire.Delta(revision(7), revision(8), (), (), (FIRST,))
    assert told(session.on_message(1, gap, 0.0)) == []
    assert told(session.on_message(1, wire.Snapshot(revision(8), ()), 0.0)) == [()]


def test_a_wiped_node_forgets_what_it_was_asked() -> None:
    session = opened(new_session())
    session.on_message(1, values(("a", 1)), 0.0)
    red = service("red", ("a", 1))
    session.on_message(1, wire.Snapshot(revision(1), (red,), (FIRST,)), 0.0)
    session.on_applied(revision(1), (BROKEN,), (), 0.0)
    session.on_message(1, wire.Wipe("evicted"), 0.0)
    opened(session, link=2)
    assert told(session.on_message(2, wire.Snapshot(revision(2), ()), 0.0)) == [()]


@pytest.mark.parametrize(
    "hostile",
    ["", "a" * 25, "a" * 27, "a" * 1_000_000, "A" * 26, "1" * 26, "a" * 26 + "\n", "é" * 26],
    ids=["none", "short", "long", "huge", "upper", "digits", "line", "other"],
)
def test_what_has_not_the_shape_of_an_id_never_reaches_the_log(hostile: str) -> None:
    """And changes nothing else of the manifest."""
    session = opened(new_session())
    snapshot = wire.Snapshot(revision(1), (), (hostile, FIRST, hostile))
    read = wire.decode_from_manager(wire.encode(snapshot))
    assert told(session.on_message(1, read, 0.0)) == [(FIRST,)]


def test_a_log_line_tells_of_a_bounded_number() -> None:
    ids = tuple(
        f"{'a' * 22}{a}{b}{c}{d}" for a in "abc" for b in "abc" for c in "abc" for d in "abc"
    )
    session = opened(new_session())
    session.on_message(1, values(("a", 1)), 0.0)
    red = service("red", ("a", 1))
    session.on_message(1, wire.Snapshot(revision(1), (red,), ids), 0.0)
    session.on_applied(revision(1), (BROKEN,), (), 0.0)
    more = tuple(one.replace("a", "z") for one in ids)
    delta = wire.Delta(revision(1), revision(2), (), (), (*more, *more))
    (line,) = told(session.on_message(1, delta, 0.0))
    assert len(line) == len(set(line)) == wire.REQUEST_IDS
    assert line[: len(more)] == more, "what is new goes before what failed earlier"
