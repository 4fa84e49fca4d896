"""`strongroom service logs`: what is asked of which manager, and what is shown."""

import json
from urllib.parse import parse_qsl

import pytest

from cluster.cli import service_logs
from cluster.cli.context_files import Context
from tests.unit.cli.canned import Asked, Canned, Reply
from tests.unit.cli.conftest import Run

PATH = "GET /v1/services/web/logs"
AT = "2026-03-01T09:00:0{}.000Z"


def line(node: str, text: str, second: int, stream: str = "stdout") -> dict[str, object]:
    return {"node": node, "at": AT.format(second), "stream": stream, "text": text}


def answer(*lines: dict[str, object], **more: object) -> dict[str, object]:
    return {"lines": list(lines), "cursors": {"n1": 12.5}, "elsewhere": [], "silent": [], **more}


def query(asked: Asked) -> list[tuple[str, str]]:
    return parse_qsl(asked.path.partition("?")[2])


def test_lines_are_shown_with_their_node(run: Run, manager: Canned, context: Context) -> None:
    shown = answer(line("w1", "up", 1), line("w1", "oops", 2, "stderr"))
    manager.on(PATH, (200, shown))
    done = run("service", "logs", "web", "--tail", "7", "--node", "w1")
    assert (done.code, done.out, done.err) == (0, "web@w1 | up\n", "web@w1 | oops\n")
    assert query(manager.only()) == [("tail", "7"), ("node", "w1")]
    done = run("service", "logs", "web", "-t")
    assert done.out == "2026-03-01T09:00:01.000Z web@w1 | up\n"
    assert run("service", "logs", "web", "-q").out == "up\n"
    found = run("service", "logs", "web", "--format", "json").out.splitlines()
    assert [json.loads(one) for one in found] == shown["lines"]


@pytest.mark.threat("T-54")
def test_a_program_cannot_draw_on_the_operators_screen(
    run: Run, manager: Canned, context: Context
) -> None:
    manager.on(PATH, (200, answer(line("w\x1b1", "a\x1b[2Jb\rc", 1))))
    assert run("service", "logs", "web").out == "web@w\\x1b1 | a\\x1b[2Jb\\rc\n"


def test_every_nodes_own_manager_is_asked(
    run: Run, manager: Canned, second_manager: Canned, context: Context
) -> None:
    elsewhere = [{"node": "w2", "manager": second_manager.endpoint}]
    elsewhere += [{"node": "w3", "manager": ""}, {"node": "w4", "manager": "127.0.0.1:1"}]
    manager.on(PATH, (200, answer(line("w1", "second", 2), elsewhere=elsewhere)))
    second_manager.on(PATH, (200, answer(line("w2", "first", 1), line("w2", "third", 3))))
    done = run("service", "logs", "web")
    assert done.out == "web@w2 | first\nweb@w1 | second\nweb@w2 | third\n"
    first, second = done.err.splitlines()
    assert first == "strongroom: nothing of w3: no manager has its session"
    assert second.startswith("strongroom: nothing of w4: its manager at 127.0.0.1:1 does not")
    assert done.code == 0


def test_a_silent_node_is_named(run: Run, manager: Canned, context: Context) -> None:
    silent = [{"node": "w9", "reason": "the node does not answer"}]
    manager.on(PATH, (200, answer(silent=silent)))
    done = run("service", "logs", "web")
    assert done.err == "strongroom: nothing of w9: the node does not answer\n"


def test_a_follower_goes_on_behind_what_it_saw(
    run: Run, manager: Canned, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every look asks behind the cursors, and complains of a node once."""
    monkeypatch.setattr(service_logs, "LOOK_S", 0.0)
    silent = [{"node": "w9", "reason": "the node does not answer"}]

    def end(_asked: Asked) -> Reply:
        return 403, {"code": "permission_denied", "message": "not yours any more"}

    manager.on(
        PATH,
        (200, answer(line("w1", "one", 1), silent=silent)),
        (200, answer(line("w1", "two", 2), silent=silent, cursors={"n1": 13.25})),
        end,
    )
    done = run("service", "logs", "web", "--follow", "-n", "5")
    assert (done.code, done.out) == (3, "web@w1 | one\nweb@w1 | two\n")
    assert done.err.count("nothing of w9") == 1
    assert [query(asked) for asked in manager.asked] == [
        [("tail", "5")],
        [("tail", "1000"), ("after", "n1:12.5")],
        [("tail", "1000"), ("after", "n1:13.25")],
    ]


def test_a_follower_comes_back_to_a_busy_manager(
    run: Run, manager: Canned, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_logs, "LOOK_S", 0.0)
    busy = (429, {"code": "too_many_requests", "message": "ask again"})
    end = (403, {"code": "permission_denied", "message": "not yours any more"})
    manager.on(PATH, busy, (200, answer(line("w1", "one", 1))), busy, (200, answer()), end)
    done = run("service", "logs", "web", "--follow")
    assert (done.code, done.out) == (3, "web@w1 | one\n")
    assert len(manager.asked) == 5


@pytest.mark.parametrize("tail", ["1001", "-1", "many"])
def test_wrong_usage_asks_nothing(run: Run, manager: Canned, context: Context, tail: str) -> None:
    assert run("service", "logs", "web", "--tail", tail).code == 2
    assert manager.asked == []
