"""`strongroom store recover-quorum` tells what is lost and does nothing without consent."""

import io
import json

import pytest

from tests.unit.cli.canned import Canned
from tests.unit.cli.conftest import Run

LOSS = {
    "own": "a:1",
    "voters": ["a:1", "b:1", "c:1"],
    "unreachable": ["b:1", "c:1"],
    "revision": 7,
}
STEPS = b'{"step": "opening the store"}\n{"done": true}\n'


@pytest.fixture
def words(admin: Canned) -> tuple[str, ...]:
    admin.on("GET /admin/lost-quorum", (200, LOSS))
    admin.on("POST /admin/recover-quorum", (200, STEPS))
    return ("store", "recover-quorum", "--admin-socket", admin.endpoint)


class _Terminal(io.TextIOWrapper):
    """Standard input as somebody types it."""

    def isatty(self) -> bool:
        return True


def _asked(admin: Canned) -> list[str]:
    return [f"{one.method} {one.path}" for one in admin.asked]


def test_without_anybody_to_ask_nothing_is_done(
    run: Run, admin: Canned, words: tuple[str, ...]
) -> None:
    done = run(*words, stdin=b"data may be lost\n")
    assert done.code == 1
    assert "2 of 3 managers do not answer: b:1, c:1" in done.err
    assert "revision 7" in done.err
    assert "needs somebody's consent" in done.err
    assert _asked(admin) == ["GET /admin/lost-quorum"]


def test_another_survivor_is_named_before_it_is_given_up(
    run: Run, admin: Canned, words: tuple[str, ...]
) -> None:
    voters = ["a:1", "b:1", "c:1", "d:1"]
    admin.on("GET /admin/lost-quorum", (200, {**LOSS, "voters": voters}))
    done = run(*words)
    assert done.code == 1
    assert "2 of 4 managers do not answer: b:1, c:1" in done.err
    assert "d:1 answers and is given up too; if its data go further, recover there" in done.err
    assert "a:1 answers" not in done.err


@pytest.mark.parametrize(("typed", "code"), [("yes", 1), ("", 1), ("data may be lost", 0)])
def test_consent_is_typed_whole(  # fixtures
    run: Run,
    admin: Canned,
    words: tuple[str, ...],
    typed: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(io, "TextIOWrapper", _Terminal)
    done = run(*words, stdin=f"{typed}\n".encode())
    assert done.code == code, done
    assert ("POST /admin/recover-quorum" in _asked(admin)) == (code == 0)


def test_a_flag_stands_for_consent(run: Run, admin: Canned, words: tuple[str, ...]) -> None:
    done = run(*words, "--yes")
    assert done.code == 0
    assert done.out == "opening the store\nthis manager is the whole cluster now\n"
    assert json.loads(admin.asked[-1].body) == {"data_may_be_lost": True}
    assert "recent evictions" in done.err
