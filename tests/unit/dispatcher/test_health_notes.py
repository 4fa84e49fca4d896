"""What an agent says of health: believed for its own tasks and what is in place there, no more."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from cluster.control.service_shown import tasks_shown
from cluster.control.update_draft import HealthDraft
from cluster.dispatcher.assignments import assignments_of
from cluster.dispatcher.health_notes import HealthNotes
from cluster.dispatcher.sessions import ViewRecords
from cluster.protocol import wire
from cluster.protocol.errors import NoQuorum
from cluster.protocol.ids import NodeId
from cluster.protocol.wire import HealthCheck, HealthReport
from cluster.store.records import TaskStatusRecord
from tests.unit.dispatcher.lab import PATIENCE_S, DispatchLab, Talk, WatchedEngine
from tests.unit.dispatcher.test_receipts import PAIR, ack, issued, status


def notes(lab: DispatchLab, node_id: NodeId) -> HealthNotes:
    return HealthNotes(lab.store, lab.clock, node_id)


def report(
    service_id: str,
    *mounted: wire.VersionKey,
    healthy: bool = True,
    detail: str = "",
    spec_number: int = 1,
) -> HealthReport:
    return HealthReport(service_id, spec_number, mounted, healthy, detail)


async def mounted(lab: DispatchLab, *secrets: str) -> tuple[NodeId, str, HealthNotes]:
    """Have service `red` in place on a node."""
    node_id, service_id = await issued(lab, *secrets)
    keys = [lab.key_of(name) for name in secrets]
    await lab.receipts.acknowledge(node_id, ack(service_id, *keys), {})
    return node_id, service_id, notes(lab, node_id)


def verdict(lab: DispatchLab) -> tuple[bool | None, str, float]:
    found = status(lab)
    return found.healthy, found.health_detail, found.health_at


async def test_verdict_on_what_is_in_place_is_kept_with_its_moment(lab: DispatchLab) -> None:
    _, service_id, heard = await mounted(lab, "db")
    assert verdict(lab) == (None, "", 0.0)
    lab.clock.advance(5)
    heard.take(report(service_id, lab.key_of("db")))
    await heard.write()
    since = lab.clock.now().timestamp()
    assert verdict(lab) == (True, "", since)
    lab.clock.advance(5)
    failed = report(service_id, lab.key_of("db"), healthy=False, detail="exit status 3")
    heard.take(failed)
    await heard.write()
    assert verdict(lab) == (False, "exit status 3", since + 5)


async def test_same_verdict_again_writes_nothing_and_keeps_its_moment(lab: DispatchLab) -> None:
    _, service_id, heard = await mounted(lab, "db")
    heard.take(report(service_id, lab.key_of("db")))
    await heard.write()
    since, revision = status(lab).health_at, await lab.store.barrier()
    lab.clock.advance(60)
    heard.take(report(service_id, lab.key_of("db")))
    await heard.write()
    assert await lab.store.barrier() == revision
    assert status(lab).health_at == since


async def test_newest_report_stands(lab: DispatchLab) -> None:
    _, service_id, heard = await mounted(lab, "db")
    heard.take(report(service_id, lab.key_of("db")))
    heard.take(report(service_id, lab.key_of("db"), healthy=False, detail="not running"))
    await heard.write()
    assert verdict(lab)[:2] == (False, "not running")


async def test_same_ack_again_keeps_the_verdict(lab: DispatchLab) -> None:
    """An agent that comes back acknowledges what it already had."""
    node_id, service_id, heard = await mounted(lab, "db")
    heard.take(report(service_id, lab.key_of("db")))
    await heard.write()
    before = verdict(lab)
    lab.clock.advance(60)
    again = ack(service_id, lab.key_of("db"), error="disk")
    await lab.receipts.acknowledge(node_id, again, {})
    assert status(lab).error == "disk"
    assert verdict(lab) == before


@pytest.mark.parametrize("what", ["version", "spec"])
async def test_change_resets_the_verdict(lab: DispatchLab, what: str) -> None:
    node_id, service_id, heard = await mounted(lab, "db")
    heard.take(report(service_id, lab.key_of("db")))
    await heard.write()
    changed = ack(service_id, lab.key_of("db"), spec_number=0)
    if what == "version":
        await lab.rotate("db", b"second")
        found = assignments_of(ViewRecords(lab.view), node_id)
        await lab.receipts.ensure(node_id, found.values())
        changed = ack(service_id, lab.key_of("db", 2))
    await lab.receipts.acknowledge(node_id, changed, {})
    assert verdict(lab) == (None, "", 0.0)


@pytest.mark.threat("T-36")
@pytest.mark.parametrize(
    "change",
    [
        lambda lab, one: msgspec.structs.replace(one, mounted=(lab.key_of("db", 2),)),
        lambda _, one: msgspec.structs.replace(one, mounted=()),
        lambda _, one: msgspec.structs.replace(one, spec_number=2),
    ],
    ids=["versions", "nothing", "spec"],
)
async def test_report_on_what_is_not_in_place_counts_for_nothing(
    lab: DispatchLab, change: Callable[[DispatchLab, HealthReport], HealthReport]
) -> None:
    _, service_id, heard = await mounted(lab, "db")
    truth = report(service_id, lab.key_of("db"))
    heard.take(change(lab, truth))
    await heard.write()
    assert verdict(lab)[0] is None
    heard.take(truth)
    await heard.write()
    assert verdict(lab)[0] is True, "the control"


@pytest.mark.threat("T-36")
async def test_node_speaks_for_its_own_tasks_alone_and_fills_no_memory(lab: DispatchLab) -> None:
    node_id, service_id, own = await mounted(lab, "db")
    stranger = notes(lab, await lab.join("other"))
    lie = report(service_id, lab.key_of("db"), healthy=False, detail="made up")
    stranger.take(lie)
    for number in range(100):
        own.take(report(f"made-up-{number}", lab.key_of("db")))
        own.take(report(service_id, wire.VersionKey(f"made-up-{number}", 1)))
    assert (len(stranger._reports), len(own._reports)) == (0, 0)  # what is kept is the claim
    await stranger.write()
    assert verdict(lab)[0] is None
    notes_of_owner = notes(lab, node_id)
    notes_of_owner.take(lie)
    await notes_of_owner.write()
    assert verdict(lab)[0] is False, "the control: only the owner may say so"


async def test_long_detail_is_cut_and_a_healthy_one_has_none(lab: DispatchLab) -> None:
    _, service_id, heard = await mounted(lab, "db")
    heard.take(report(service_id, lab.key_of("db"), healthy=False, detail="x" * 10_000))
    await heard.write()
    assert verdict(lab)[1] == "x" * 200
    heard.take(report(service_id, lab.key_of("db"), detail="fine"))
    await heard.write()
    assert verdict(lab)[:2] == (True, "")


async def test_removed_task_drops_its_report(lab: DispatchLab) -> None:
    _, service_id, heard = await mounted(lab, "db")
    heard.take(report(service_id, lab.key_of("db")))
    await lab.remove_service("red")
    await heard.write()
    assert len(lab.view.task_statuses) == 0


# --- in a session -------------------------------------------------------------------------------


async def in_place(lab: DispatchLab, talk: Talk) -> str:
    snapshot = await talk.link.next(wire.Snapshot)
    await talk.carry_out(snapshot)
    (service,) = snapshot.services
    return service.service_id


async def until(lab: DispatchLab, holds: Callable[[TaskStatusRecord], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds(status(lab)):  # noqa: ASYNC110  # nothing signals it
            await asyncio.sleep(0.01)


async def test_report_over_a_session_is_written(lab: DispatchLab) -> None:
    async with lab.talk(await lab.running("db")) as talk:
        service_id = await in_place(lab, talk)
        talk.link.say(report(service_id, lab.key_of("db"), healthy=False, detail="exit status 1"))
        await until(lab, lambda found: found.healthy is False)


async def test_report_waits_for_the_engine_and_the_session_lives_on(
    lab: DispatchLab, engine: WatchedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lab.talk(await lab.running("db")) as talk:
        service_id = await in_place(lab, talk)
        refused = 0
        transact = engine._engine.transact  # the port of the test

        async def refuse_once(*args: object, **kwargs: object) -> object:
            nonlocal refused
            refused += 1
            if refused == 1:
                raise NoQuorum
            return await transact(*args, **kwargs)  # type: ignore[arg-type]  # passed on as it came

        monkeypatch.setattr(engine, "transact", refuse_once)
        talk.link.say(report(service_id, lab.key_of("db")))
        await until(lab, lambda found: found.healthy is True)
        assert refused > 1
        await talk.heard()


# --- what nodes and operators are shown ---------------------------------------------------------


@pytest.mark.parametrize(
    ("draft", "check"),
    [
        (
            HealthDraft(command=("/bin/check",), interval_s=2.0),
            HealthCheck("exec", ("/bin/check",), "", 2.0, 5.0, 3),
        ),
        (
            HealthDraft(url="http://localhost:1/", retries=1),
            HealthCheck("http", (), "http://localhost:1/", 1.0, 5.0, 1),
        ),
        (HealthDraft(process=True), HealthCheck("process", (), "", 1.0, 5.0, 3)),
        (None, None),
    ],
)
async def test_check_is_part_of_the_assignment(
    lab: DispatchLab, draft: HealthDraft | None, check: HealthCheck | None
) -> None:
    node_id = await lab.join("one")
    await lab.service("red", health=draft)
    await lab.settle(lab.duty())
    (found,) = assignments_of(ViewRecords(lab.view), node_id).values()
    assert found.health == check


async def test_health_is_shown_with_each_task(lab: DispatchLab) -> None:
    node_id = await lab.join("one")
    red = await lab.service("red", health=HealthDraft(process=True))
    await lab.settle(lab.duty())

    def shown() -> tuple[object, ...]:
        (task,) = tasks_shown(lab.view, red.record)
        return task["health"], task["health_detail"], task["health_since"]

    assert shown() == ("unknown", "", None)
    await lab.receipts.acknowledge(node_id, wire.Ack(PAIR, ack(red.record.id).services), {})
    assert shown() == ("unknown", "", None)
    heard = notes(lab, node_id)
    heard.take(report(red.record.id, healthy=False, detail="not running"))
    await heard.write()
    assert shown()[:2] == ("unhealthy", "not running")
    assert str(shown()[2]).endswith("Z")
    heard.take(report(red.record.id))
    await heard.write()
    assert shown()[:2] == ("healthy", "")


async def test_task_of_a_service_without_a_check_has_no_health(lab: DispatchLab) -> None:
    await lab.join("one")
    red = await lab.service("red")
    await lab.settle(lab.duty())
    (task,) = tasks_shown(lab.view, red.record)
    assert task["health"] == ""
