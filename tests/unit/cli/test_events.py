"""`strongroom events`, as transcripts."""

import json
from collections.abc import Mapping

import pytest

from cluster.cli import events
from cluster.cli.context_files import Context
from tests.unit.cli.canned import Asked, Canned
from tests.unit.cli.conftest import Run


def event(number: int, name: str = "db", **more: object) -> dict[str, object]:
    return {
        "revision": f"1.first.{number}",
        "type": "secret",
        "action": "update",
        "id": "s" * 26,
        "name": name,
        "at": "2026-01-01T00:00:00.000Z",
        "by": "spiffe://lab.example/operator/alice",
        "cause": "secret.rotate",
        "request_id": "r" * 26,
        "attributes": {"version.old": 1, "version.new": 2},
        **more,
    }


def reached(number: int) -> dict[str, object]:
    return {"revision": f"1.first.{number}"}


def body(*lines: Mapping[str, object]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PAUSE_S", 0.0)


def test_events_are_told_in_a_line_each(run: Run, manager: Canned, context: Context) -> None:
    manager.on("GET /v1/events", (200, body(event(7), reached(7))))
    done = run("events")
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        "2026-01-01T00:00:00.000Z secret update db by operator/alice "
        "(secret.rotate, version.old=1, version.new=2)\n"
    )
    assert run("events", "-q").out == "db\n"
    assert json.loads(run("events", "--format", "json").out) == event(7)


def test_terms_reach_the_manager(run: Run, manager: Canned, context: Context) -> None:
    manager.on("GET /v1/events", (200, body(reached(9))))
    assert (
        run("events", "--since", "1.first.3", "--filter", "type=node", "--filter", "name=a/b").code
        == 0
    )
    assert manager.only().path == "/v1/events?type=node&name=a%2Fb&since=1.first.3"


def test_a_follower_goes_on_where_it_was_cut_and_shows_nothing_twice(
    run: Run, manager: Canned, context: Context
) -> None:
    """The second event of the first answer came without word that its revision is whole."""
    gone = (410, {"code": "history_gone", "message": "gone", "retryable": False})
    manager.on(
        "GET /v1/events",
        (200, body(reached(5), event(6, "one"), reached(6), event(7, "two"))),
        (200, body(reached(6), event(7, "two"), event(7, "three"), reached(7))),
        gone,
    )
    done = run("events", "--follow", "-q")
    assert done.out == "one\ntwo\nthree\n"
    assert done.code == 1
    assert "gone" in done.err
    assert [asked.path.rpartition("since=")[2] for asked in manager.asked[1:]] == [
        "1.first.6", "1.first.7",
    ]  # fmt: skip


def test_an_error_in_the_stream_is_told(run: Run, manager: Canned, context: Context) -> None:
    failure = {"error": {"code": "permission_denied", "message": "no more"}}
    manager.on("GET /v1/events", (200, body(reached(5), failure)))
    done = run("events", "--follow")
    assert done.code == 3
    assert "no more" in done.err


def test_an_answer_that_breaks_off_is_an_error(run: Run, manager: Canned, context: Context) -> None:
    manager.on("GET /v1/events", (200, body(event(6))))
    done = run("events")
    assert (done.code, done.out) == (1, "")
    assert "breaks off" in done.err


def test_a_follower_whom_nobody_answers_ends(run: Run, manager: Canned, context: Context) -> None:
    def unavailable(_asked: Asked) -> tuple[int, object]:
        return 503, {"code": "unavailable", "message": "try another manager", "retryable": True}

    manager.on("GET /v1/events", unavailable)
    assert run("events", "--follow").code == 5


@pytest.mark.parametrize("text", ["kind=secret", "type", "type="])
def test_a_filter_that_is_none_is_refused(run: Run, context: Context, text: str) -> None:
    assert run("events", "--filter", text).code == 2
