"""Asking a node for lines over its session."""

import asyncio

import pytest

from cluster.dispatcher.log_calls import PENDING, LogCalls, NodeLogs
from cluster.protocol import wire
from cluster.protocol.errors import SessionExpired, Unavailable
from cluster.protocol.ids import NodeId, ServiceId
from tests.unit.dispatcher.lab import DispatchLab

SERVICE = ServiceId("s1")


def chunk(number: int, *texts: str, error: str = "") -> wire.LogChunk:
    lines = tuple(wire.LogLine(1.0, "stdout", text) for text in texts)
    return wire.LogChunk(number, lines, 9.5, error)


class Wire:
    """The network port: requests arrive, and are answered as a test says."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[wire.LogRequest] = asyncio.Queue()

    async def send(self, message: wire.FromManager) -> None:
        assert isinstance(message, wire.LogRequest)
        await self.sent.put(message)

    async def receive(self) -> wire.FromAgent:
        raise SessionExpired


async def asked(calls: LogCalls, link: Wire) -> tuple[asyncio.Task[wire.LogChunk], int]:
    task = asyncio.create_task(calls.ask(link, SERVICE, 10, None))
    return task, (await link.sent.get()).number


async def test_each_answer_finds_who_asked() -> None:
    calls, link = LogCalls(), Wire()
    first, one = await asked(calls, link)
    second, two = await asked(calls, link)
    calls.take(chunk(two, "b"))
    calls.take(chunk(one, "a"))
    assert [(await task).lines[0].text for task in (first, second)] == ["a", "b"]


async def test_an_answer_that_nobody_waits_for_is_dropped() -> None:
    calls, link = LogCalls(), Wire()
    calls.take(chunk(1, "made up"))
    task, number = await asked(calls, link)
    calls.take(chunk(number + 1, "another's"))
    calls.take(chunk(number, "a"))
    calls.take(chunk(number, "twice"))
    assert (await task).lines[0].text == "a"
    calls.take(chunk(number, "late"))


@pytest.mark.threat("T-54")
async def test_a_node_cannot_send_more_than_was_asked_for() -> None:
    calls, link = LogCalls(), Wire()
    task, number = await asked(calls, link)
    calls.take(chunk(number, *["x"] * (wire.LOG_LINES + 1)))
    assert len((await task).lines) == wire.LOG_LINES
    task, number = await asked(calls, link)
    calls.take(chunk(number, *["x" * wire.LOG_BYTES] * 4, error="\x1b[2Jmade up"))
    found = await task
    assert (len(found.lines), found.error) == (2, "")
    for error in ("service_not_found", "too_many_requests", "unavailable"):
        task, number = await asked(calls, link)
        calls.take(chunk(number, error=error))
        assert (await task).error == error


async def test_the_end_of_a_session_ends_the_waiting() -> None:
    calls, link = LogCalls(), Wire()
    task, _ = await asked(calls, link)
    calls.end()
    with pytest.raises(SessionExpired):
        await task


async def test_only_so_many_wait_for_one_node() -> None:
    calls, link = LogCalls(), Wire()
    tasks = [(await asked(calls, link))[0] for _ in range(PENDING)]
    with pytest.raises(Unavailable):
        await calls.ask(link, SERVICE, 10, None)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    task, number = await asked(calls, link)
    calls.take(chunk(number, "a"))
    assert (await task).lines


async def test_a_node_without_a_session_here_is_not_asked(lab: DispatchLab) -> None:
    logs = NodeLogs(lab.presence)
    assert not logs.is_here(NodeId("n1"))
    with pytest.raises(Unavailable):
        await logs.fetch(NodeId("n1"), SERVICE, 10, None)


async def test_lines_come_over_the_session_of_the_node(lab: DispatchLab) -> None:
    node_id = await lab.running()
    logs = NodeLogs(lab.presence)
    async with lab.talk(node_id) as talk:
        await talk.carry_out(await talk.link.next(wire.Snapshot))
        assert logs.is_here(node_id)
        task = asyncio.create_task(logs.fetch(node_id, SERVICE, 10, 3.5))
        request = await talk.link.next(wire.LogRequest)
        assert (request.service_id, request.tail, request.after_s) == (SERVICE, 10, 3.5)
        talk.link.say(chunk(request.number, "a"))
        assert (await task).lines[0].text == "a"
        waiting = asyncio.create_task(logs.fetch(node_id, SERVICE, 10, None))
        await talk.link.next(wire.LogRequest)
    with pytest.raises(SessionExpired):
        await waiting
