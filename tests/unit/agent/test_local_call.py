"""The local protocol's two ways with a line: the short one says what `json` says."""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import local_call
from agent.local_call import MAX_BODY_BYTES, MAX_LINE_BYTES, CutShort, Refused, call

NAMES = ["db", "a.b-c_9", "", "a b", 'a"b', "a\\", "é", "٣", "a\nb", "a\x00", "-", "{", "true"]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_request_is_json_whatever_is_in_it(name: str) -> None:
    fields: dict[str, object] = {"v": 1, "op": "get", "name": name, "since": 3}
    line = local_call._line(fields)
    assert json.loads(line) == fields
    assert line.count(b"\n") == 1


def test_what_is_no_plain_text_goes_through_json() -> None:
    fields: dict[str, object] = {"v": 1, "yes": True, "none": None, "list": ["a"], "half": 0.5}
    assert json.loads(local_call._line(fields)) == fields


@pytest.mark.parametrize(
    ("line", "size"),
    [
        (b'{"v": 1, "ok": true, "size": 5}\n', 5),
        (b'{"v":1,"size":5,"ok":true}\n', 5),
        (b'{"v": 1, "ok": true, "size": %d}\n' % MAX_BODY_BYTES, MAX_BODY_BYTES),
    ],
)
def test_a_size_is_read_either_way(line: bytes, size: int) -> None:
    assert local_call._parse_header(line) == size


@pytest.mark.parametrize(
    "line",
    [
        b'{"v": 1, "ok": true, "size": %d}\n' % (MAX_BODY_BYTES + 1),
        b'{"v": 1, "ok": true, "size": 5}',
        b'{"v": 1, "ok": true, "size": -5}\n',
        b'{"v": 1, "ok": true, "size": 5, "size": x}\n',
        b'{"v": 1, "ok": true, "size": "5"}\n',
        b'{"v": 1, "ok": true, "size": }\n',
        b'{"v": 2, "ok": true, "size": 5}\n',
        b"[" * 100_000 + b"\n",
        b"",
    ],
    ids=lambda line: repr(line[:50]),
)
def test_no_size_is_made_up(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"malformed|Expecting"):
        local_call._parse_header(line)


def answered(path: Path, answer: Callable[[socket.socket], None]) -> bytes:
    """Call somebody who reads a request and does as `answer` does."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.settimeout(30)
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65_536)
                # Who has read what it wants goes; what was left to say then has no hearer.
                with contextlib.suppress(BrokenPipeError):
                    answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            return call(path, "get", "db")
        finally:
            thread.join(30)


@pytest.mark.parametrize("step", [1, 40, 1_000_000])
def test_an_answer_is_read_however_it_is_cut(tmp_path: Path, step: int) -> None:
    value = os.urandom(300)
    raw = b'{"v": 1, "ok": true, "size": 300}\n' + value + b"more"

    def answer(connection: socket.socket) -> None:
        for at in range(0, len(raw), step):
            connection.sendall(raw[at : at + step])

    assert answered(tmp_path / "s", answer) == value


def test_a_large_value_is_read_whole(tmp_path: Path) -> None:
    value = os.urandom(MAX_BODY_BYTES)
    head = b'{"v": 1, "ok": true, "size": %d}\n' % len(value)
    assert answered(tmp_path / "s", lambda peer: peer.sendall(head + value)) == value


@pytest.mark.parametrize(
    ("raw", "meaning"),
    [
        (b"", ValueError),
        (b'{"v": 1, "ok": true, "size": 3}', ValueError),
        (b'{"v": 1, "ok": true, "size": 3}\nab', CutShort),
        (b" " * MAX_LINE_BYTES + b'{"v": 1, "ok": true, "size": 0}\n', ValueError),
        (b'{"v": 1, "ok": false, "code": "locked", "message": "no"}\n', Refused),
    ],
    ids=["nothing", "no line", "cut short", "too long a line", "refused"],
)
def test_half_an_answer_is_none(tmp_path: Path, raw: bytes, meaning: type[Exception]) -> None:
    with pytest.raises(meaning):
        answered(tmp_path / "s", lambda peer: peer.sendall(raw))
