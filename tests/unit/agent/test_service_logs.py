"""What a node answers when a manager asks for lines: from real keepers' sockets."""

import asyncio
import json
import math
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pytest

from agent import service_logs
from agent.local_call import short_address
from agent.log_ring import Line
from agent.mount_table import MountTable
from agent.service_logs import AT_ONCE, KEEPERS, ServiceLogs
from cluster.dispatcher import log_calls
from cluster.protocol.wire import LOG_BYTES, LOG_LINES, LogChunk, LogRequest, ServiceAssignment
from tests.support.clock import ManualClock

PATIENCE_S = 30.0
WEB, OTHER, MUTE = "w" * 26, "o" * 26, "m" * 26


class Clock(ManualClock):
    """Each look at the steady count takes a while."""

    step_s = 0.0

    def monotonic_s(self) -> float:
        """Return the steady count."""
        self.advance(self.step_s)
        return super().monotonic_s()


class Table:
    """A port: what is in place on the node."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "..1").mkdir()
        (directory / "..1/db").write_bytes(b"hunter22")
        (directory / "..data").symlink_to("..1")
        self.mounted = {
            WEB: ServiceAssignment(WEB, "web", 1, 1, 1, (), logs=True),
            OTHER: ServiceAssignment(OTHER, "other", 1, 1, 1, (), logs=True),
            MUTE: ServiceAssignment(MUTE, "mute", 1, 1, 1, ()),
            "../x": ServiceAssignment("../x", "web", 1, 1, 1, (), logs=True),
        }

    def path_of(self, service_id: str) -> Path:
        """Return where a service's files are."""
        del service_id
        return self._directory


class Node:
    """The part under test, with what it sent."""

    def __init__(self, directory: Path, group: asyncio.TaskGroup) -> None:
        self.logs_dir = directory / "logs" / WEB
        self.logs_dir.mkdir(parents=True)
        self.mount = directory / "mount"
        self.mount.mkdir()
        self.clock = Clock()
        self.sent: asyncio.Queue[tuple[int, LogChunk]] = asyncio.Queue()
        table = cast("MountTable", Table(self.mount))
        self.logs = ServiceLogs(directory, table, self.clock, group, self._send)

    async def _send(self, link: int, chunk: LogChunk) -> None:
        await self.sent.put((link, chunk))

    async def ask(
        self, service_id: str = WEB, tail: int = 100, after_s: float | None = None
    ) -> LogChunk:
        self.logs.answer(3, LogRequest(5, service_id, tail, after_s))
        async with asyncio.timeout(PATIENCE_S):
            link, chunk = await self.sent.get()
        assert (link, chunk.number) == (3, 5)
        return chunk

    def now(self) -> float:
        return self.clock.boottime_s()


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Node]:
    async with asyncio.TaskGroup() as group:
        node = Node(directory, group)
        yield node
        node.logs.cancel()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running(tmp_path) as made:
        yield made


@contextmanager
def keeper(
    path: Path, *lines: Line, raw: bytes | None = None, size: int | None = None
) -> Iterator[None]:
    """Stand in for a keeper: answer every question with these lines that are behind `after`.

    `size`: what it says its answer has.
    """
    with socket.socket(socket.AF_UNIX) as listening, short_address(path) as address:
        listening.bind(address)
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, connection.makefile("rb") as stream:
                    after_s = json.loads(stream.readline())["after"]
                    rows = [asdict(line) for line in lines if line.at_s > after_s]
                    body = raw if raw is not None else json.dumps(rows).encode()
                    header: dict[str, Any] = {"v": 1, "ok": True, "size": size or len(body)}
                    connection.sendall(json.dumps(header).encode() + b"\n" + body)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE_S)


def line(at_s: float, text: str) -> Line:
    return Line(at_s, 1_000.0 + at_s, "stdout", text)


def said(chunk: LogChunk) -> list[str]:
    return [one.text for one in chunk.lines]


async def test_lines_of_all_its_programs_in_the_order_they_came(node: Node) -> None:
    now = node.now()
    with (
        keeper(node.logs_dir / "1.sock", line(now - 3, "a"), line(now - 1, "c")),
        keeper(node.logs_dir / "2.sock", line(now - 2, "b"), line(now + 9, "later")),
    ):
        chunk = await node.ask()
        assert (said(chunk), chunk.cursor_s, chunk.error) == (["a", "b", "c"], now, "")
        assert said(await node.ask(tail=2)) == ["b", "c"]
        assert said(await node.ask(tail=0)) == []
        node.clock.advance(10)
        assert said(await node.ask(after_s=chunk.cursor_s)) == ["later"]


@pytest.mark.threat("T-54")
@pytest.mark.parametrize("service_id", [MUTE, "unknown", "../x"])
async def test_only_a_service_in_place_that_keeps_a_log_is_answered_for(
    node: Node, service_id: str
) -> None:
    """Whatever lies in the directory: the assignment decides."""
    with keeper(node.logs_dir / "1.sock", line(node.now() - 1, "a")):
        chunk = await node.ask(service_id)
        assert (chunk.lines, chunk.error) == ((), "service_not_found")
        assert said(await node.ask()) == ["a"]


@pytest.mark.threat("T-54")
async def test_keepers_of_an_earlier_service_of_the_name_are_not_asked(node: Node) -> None:
    for name in ("web", "v" * 26):
        (node.logs_dir.parent / name).mkdir()
    with (
        keeper(node.logs_dir.parent / "web/1.sock", line(node.now() - 1, "others")),
        keeper(node.logs_dir.parent / ("v" * 26) / "1.sock", line(node.now() - 1, "others")),
        keeper(node.logs_dir / "1.sock", line(node.now() - 1, "a")),
    ):
        assert said(await node.ask()) == ["a"]


@pytest.mark.threat("T-54")
async def test_values_that_came_after_they_were_printed_are_taken_out(node: Node) -> None:
    """A keeper knows what was in the files then; here those in them now are looked for."""
    with keeper(node.logs_dir / "1.sock", line(node.now() - 1, "it is hunter22")):
        assert said(await node.ask()) == ["it is [redacted]"]


@pytest.mark.threat("T-54")
async def test_without_the_files_nothing_is_told(node: Node) -> None:
    with keeper(node.logs_dir / "1.sock", line(node.now() - 1, "it is hunter22")):
        (node.mount / "..data").unlink()
        assert said(await node.ask()) == ["[withheld: the service's files are gone]"]


async def test_a_chunk_is_bounded_and_the_rest_is_behind_its_cursor(node: Node) -> None:
    start = node.now() - 100
    lines = [line(start + number / 1e3, f"{number} ".ljust(500, "x")) for number in range(600)]
    with keeper(node.logs_dir / "1.sock", *lines):
        last = await node.ask(tail=600)
        assert said(last)[-1].startswith("599 ")
        assert sum(map(len, said(last))) <= LOG_BYTES
        seen: list[str] = []
        cursor_s = start - 1
        while (chunk := await node.ask(tail=LOG_LINES, after_s=cursor_s)).lines:
            assert sum(map(len, said(chunk))) <= LOG_BYTES
            seen += said(chunk)
            cursor_s = chunk.cursor_s
        assert seen == [one.text for one in lines]


async def test_no_more_lines_than_were_asked_for_and_none_is_missed(node: Node) -> None:
    lines = [line(node.now() - 10 + number / 100, str(number)) for number in range(25)]
    with keeper(node.logs_dir / "1.sock", *lines):
        seen: list[str] = []
        cursor_s = node.now() - 11
        for _ in range(3):
            chunk = await node.ask(tail=10, after_s=cursor_s)
            seen, cursor_s = seen + said(chunk), chunk.cursor_s
        assert seen == [str(number) for number in range(25)]


async def test_what_no_keeper_answers_on_is_passed_over(node: Node) -> None:
    with socket.socket(socket.AF_UNIX) as dead, short_address(node.logs_dir / "1.sock") as address:
        dead.bind(address)
    (node.logs_dir / "other").touch()
    with (
        keeper(node.logs_dir / "2.sock", raw=b"[{]"),
        keeper(node.logs_dir / "3.sock", raw=b'[{"at_s": "x"}]'),
        keeper(node.logs_dir / "4.sock", line(node.now() - 1, "a")),
    ):
        assert said(await node.ask()) == ["a"]
    assert not (node.logs_dir / "1.sock").exists()


async def test_a_keeper_that_does_not_answer_takes_its_time_and_no_more(node: Node) -> None:
    path = node.logs_dir / "1.sock"
    with socket.socket(socket.AF_UNIX) as mute, short_address(path) as address:
        mute.bind(address)
        mute.listen()
        assert service_logs._asked(path, 0.0, LogRequest(5, WEB, 10), 0.01) is None
    assert service_logs.KEEPER_S < service_logs.READ_S < log_calls.ANSWER_S
    assert path.exists()


@pytest.mark.parametrize("size", [0, 3])
async def test_a_follower_is_not_led_past_what_a_keeper_did_not_tell(node: Node, size: int) -> None:
    """Who begins is shown what the others have."""
    cursor_s = node.now() - 5
    with (
        keeper(node.logs_dir / "1.sock", line(node.now() - 1, "a")),
        keeper(node.logs_dir / "2.sock", raw=b"[]", size=size),
    ):
        assert said(await node.ask()) == ["a"]
        chunk = await node.ask(after_s=cursor_s)
        if size > len(b"[]"):
            assert chunk == LogChunk(5, (), cursor_s, "unavailable")
        else:
            assert said(chunk) == ["a"]
    node.clock.advance(1)
    with keeper(node.logs_dir / "3.sock", line(node.now() - 1, "b")):
        assert said(await node.ask(after_s=cursor_s)) == ["b"]
    assert list(node.logs_dir.iterdir()) == [node.logs_dir / "3.sock"]


async def test_keepers_that_were_not_asked_hold_a_follower(node: Node) -> None:
    node.clock.step_s = service_logs.READ_S
    with keeper(node.logs_dir / "1.sock", line(node.now() - 1, "a")):
        chunk = await node.ask(after_s=1.0)
        assert (chunk.lines, chunk.cursor_s, chunk.error) == ((), 1.0, "unavailable")


async def test_all_keepers_together_have_a_time_too(node: Node) -> None:
    """Time passes with each that is asked; those left over are not asked any more."""
    asked = math.ceil(service_logs.READ_S) - 1
    with ExitStack() as stack:
        for number in range(KEEPERS):
            path = node.logs_dir / f"{number}.sock"
            stack.enter_context(keeper(path, line(node.now() - 1, str(number))))
        node.clock.step_s = 1.0
        assert len(said(await node.ask())) == asked < KEEPERS
        assert len(service_logs._sockets(node.logs_dir)) == KEEPERS


async def test_what_cannot_be_taken_away_stays_and_harms_nothing(node: Node) -> None:
    """It refuses as a dead keeper's socket does."""
    (node.logs_dir / "1.sock").mkdir()
    with keeper(node.logs_dir / "2.sock", line(node.now() - 1, "a")):
        assert said(await node.ask()) == ["a"]


async def test_a_flood_for_one_service_leaves_the_others_alone(node: Node) -> None:
    with keeper(node.logs_dir / "1.sock", line(node.now() - 1, "a")):
        for _ in range(AT_ONCE + 3):
            node.logs.answer(3, LogRequest(5, WEB, 10))
        node.logs.answer(3, LogRequest(6, OTHER, 10))
        async with asyncio.timeout(PATIENCE_S):
            chunks = [(await node.sent.get())[1] for _ in range(AT_ONCE + 4)]
    assert [chunk.error for chunk in chunks if chunk.number == 6] == [""]
    assert len([chunk for chunk in chunks if chunk.error]) >= 3
    assert not node.logs._reading


async def test_a_flood_of_requests_is_told_to_come_back(node: Node) -> None:
    with keeper(node.logs_dir / "1.sock", line(node.now() - 1, "a")):
        for _ in range(AT_ONCE + 3):
            node.logs.answer(3, LogRequest(5, WEB, 10))
        async with asyncio.timeout(PATIENCE_S):
            chunks = [(await node.sent.get())[1] for _ in range(AT_ONCE + 3)]
    refused = [chunk for chunk in chunks if chunk.error]
    assert len(refused) >= 3
    assert {chunk.error for chunk in refused} == {"too_many_requests"}
    assert [said(chunk) for chunk in chunks if not chunk.error]
