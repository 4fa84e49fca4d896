"""Who may read what a service printed, what is on record of it, and which nodes are asked."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from cluster.control.audit_query import AuditFilter, AuditQuery
from cluster.control.service_logs import AT_ONCE, NODES, RECORDED_S, ServiceLogs
from cluster.protocol.errors import (
    Conflict,
    InvalidRequest,
    PermissionDenied,
    ServiceNotFound,
    TooManyRequests,
    Unavailable,
)
from cluster.protocol.ids import NodeId, ServiceId
from cluster.protocol.wire import LOG_LINES, LogChunk, LogLine
from tests.unit.control.lab import ADMIN, AUDITOR, DEPLOYER, ControlLab


@dataclass
class Nodes:
    """A port: the nodes with a session on this manager, and what they answer."""

    chunks: dict[str, LogChunk] = field(default_factory=dict)
    asked: list[tuple[str, str, int, float | None]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Queue[None] = field(default_factory=asyncio.Queue)

    def is_here(self, node_id: NodeId) -> bool:
        """Return whether a node can be asked."""
        return node_id in self.chunks

    async def fetch(
        self, node_id: NodeId, service_id: ServiceId, tail: int, after_s: float | None
    ) -> LogChunk:
        """Answer when the gate is open."""
        self.asked.append((node_id, service_id, tail, after_s))
        self.arrived.put_nowait(None)
        await self.gate.wait()
        found = self.chunks[node_id]
        if found.error == "unavailable":
            raise Unavailable("the node does not answer")
        return found


class Stage:
    """Web on two nodes, with a log, for the red team."""

    def __init__(self, lab: ControlLab) -> None:
        self.lab = lab
        self.nodes = Nodes()
        self.nodes.gate.set()
        self.logs = ServiceLogs(lab.requests, self.nodes)
        self.ids: dict[str, NodeId] = {}

    async def set_up(self, count: int = 2) -> None:
        for number in range(1, count + 1):
            name = f"n{number}"
            self.ids[name] = await self.lab.join(name)
            line = LogLine(float(10 - number), "stdout", f"said on {name}")
            self.nodes.chunks[self.ids[name]] = LogChunk(1, (line,), float(number))
        fields: dict[str, object] = {"replicas": count, "logs": True, "labels": {"team": "red"}}
        await self.lab.service("web", **fields)
        await self.lab.settle(self.lab.duty())

    async def recorded(self) -> list[tuple[object, object]]:
        """Return who is on record for having read, and whether they were let."""
        audit = AuditQuery(self.lab.requests)
        page = await audit.read(ADMIN, AuditFilter(action="service.logs"))
        entries = cast("list[dict[str, Any]]", dict(page)["entries"])
        return [(entry["caller"], entry["allowed"]) for entry in entries]


@pytest.fixture
async def stage(lab: ControlLab) -> Stage:
    stage = Stage(lab)
    await stage.set_up()
    return stage


async def read(stage: Stage, **more: object) -> dict[str, object]:
    options = {"principal": ADMIN, "name": "web", "tail": 10, "after": {}, **more}
    return dict(await stage.logs.read(**cast("dict[str, Any]", options)))


def texts(answer: dict[str, object]) -> list[str]:
    return [line["text"] for line in cast("list[dict[str, Any]]", answer["lines"])]


async def test_lines_of_every_node_by_the_calendar(stage: Stage) -> None:
    found = await read(stage)
    assert texts(found) == ["said on n2", "said on n1"]
    assert found["cursors"] == {stage.ids["n1"]: 1.0, stage.ids["n2"]: 2.0}
    assert (found["elsewhere"], found["silent"]) == ([], [])
    assert texts(await read(stage, nodes=["n1"])) == ["said on n1"]


async def test_a_cursor_goes_to_its_node(stage: Stage) -> None:
    await read(stage, after={stage.ids["n2"]: 2.5})
    asked = {node_id: after_s for node_id, _, _, after_s in stage.nodes.asked}
    assert asked == {stage.ids["n1"]: None, stage.ids["n2"]: 2.5}


@pytest.mark.threat("T-54")
async def test_auditors_and_other_teams_read_nothing(stage: Stage) -> None:
    """A program may print anything: to read it is more than to see that it runs."""
    with pytest.raises(PermissionDenied):
        await read(stage, principal=AUDITOR)
    await stage.lab.service("blue", uid=2000, logs=True, labels={"team": "blue"})
    with pytest.raises(PermissionDenied):
        await read(stage, principal=DEPLOYER, name="blue")
    assert stage.nodes.asked == []
    assert texts(await read(stage, principal=DEPLOYER)) == ["said on n2", "said on n1"]


@pytest.mark.threat("T-54")
async def test_a_service_that_keeps_no_log_is_not_asked_for(stage: Stage) -> None:
    await stage.lab.service("mute", uid=2000)
    await stage.lab.settle(stage.lab.duty())
    with pytest.raises(Conflict, match="service update mute --logs"):
        await read(stage, name="mute")
    with pytest.raises(ServiceNotFound):
        await read(stage, name="nothing")
    assert (stage.nodes.asked, await stage.recorded()) == ([], [])


@pytest.mark.threat("T-54")
async def test_a_reading_is_on_record_before_a_node_is_asked(stage: Stage) -> None:
    stage.nodes.gate.clear()
    reading = asyncio.create_task(read(stage))
    async with asyncio.timeout(30):
        for _ in range(2):
            await stage.nodes.arrived.get()
    assert await stage.recorded() == [(ADMIN.name, True)]
    stage.nodes.gate.set()
    await reading


@pytest.mark.threat("T-54")
async def test_a_follower_is_on_record_now_and_then(stage: Stage) -> None:
    """A cursor that was made up is a first reading like any other."""
    after = {stage.ids["n1"]: 1.0}
    for _ in range(3):
        await read(stage, after=after)
    assert len(await stage.recorded()) == 1
    await read(stage)
    assert len(await stage.recorded()) == 2
    await read(stage, principal=DEPLOYER, after=after)
    stage.lab.clock.advance(RECORDED_S)
    await read(stage, after=after)
    callers = [caller for caller, _ in await stage.recorded()]
    assert callers == [ADMIN.name, ADMIN.name, DEPLOYER.name, ADMIN.name]


async def test_nodes_that_say_nothing_are_named(stage: Stage) -> None:
    stage.nodes.chunks[stage.ids["n1"]] = LogChunk(1, (), 0.0, "unavailable")
    stage.nodes.chunks[stage.ids["n2"]] = LogChunk(1, (), 0.0, "service_not_found")
    found = await read(stage)
    assert (found["lines"], found["cursors"]) == ([], {})
    assert sorted(cast("list[dict[str, str]]", found["silent"]), key=lambda one: one["node"]) == [
        {"node": "n1", "reason": "the node does not answer"},
        {"node": "n2", "reason": "service_not_found"},
    ]


async def test_the_managers_of_other_nodes_are_named(stage: Stage) -> None:
    del stage.nodes.chunks[stage.ids["n2"]]
    found = await read(stage)
    assert texts(found) == ["said on n1"]
    assert found["elsewhere"] == [{"node": "n2", "manager": "127.0.0.1:7443"}]


async def test_only_nodes_that_have_the_service_are_asked(stage: Stage) -> None:
    other = await stage.lab.join("n3")
    stage.nodes.chunks[other] = LogChunk(1, (LogLine(1.0, "stdout", "another's"),), 1.0)
    assert texts(await read(stage, nodes=["n3"])) == []
    await read(stage)
    assert {node_id for node_id, *_ in stage.nodes.asked} == set(stage.ids.values())


async def test_more_nodes_than_one_request_asks_are_named(lab: ControlLab) -> None:
    stage = Stage(lab)
    await stage.set_up(NODES + 1)
    found = await read(stage)
    assert len(texts(found)) == NODES
    assert [one["reason"] for one in cast("list[dict[str, str]]", found["silent"])] == ["not asked"]


async def test_a_time_that_a_node_made_up_is_not_shown(stage: Stage) -> None:
    lines = tuple(LogLine(at, "stdout", "x") for at in (1e300, -1e300, float("nan")))
    stage.nodes.chunks[stage.ids["n1"]] = LogChunk(1, lines, 1.0)
    found = cast("list[dict[str, Any]]", (await read(stage, nodes=["n1"]))["lines"])
    assert [line["at"] for line in found] == [None, None, None]


@pytest.mark.parametrize("tail", [-1, LOG_LINES + 1])
async def test_a_number_of_lines_out_of_range_is_refused(stage: Stage, tail: int) -> None:
    with pytest.raises(InvalidRequest):
        await read(stage, tail=tail)


async def test_only_so_many_are_answered_at_once(stage: Stage) -> None:
    stage.nodes.gate.clear()
    reading = [asyncio.create_task(read(stage)) for _ in range(AT_ONCE)]
    async with asyncio.timeout(30):
        for _ in range(2 * AT_ONCE):
            await stage.nodes.arrived.get()
    with pytest.raises(TooManyRequests):
        await read(stage)
    stage.nodes.gate.set()
    for task in reading:
        await task
    assert texts(await read(stage))
