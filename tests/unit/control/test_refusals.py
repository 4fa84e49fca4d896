"""Refusals on their way into the audit."""

import asyncio
from datetime import timedelta

import pytest

from cluster.control.refusals import ENTRIES_PER_MINUTE, SUMMARY_ACTION, TABLE_SIZE, Refusals
from cluster.protocol.errors import PermissionDenied
from cluster.store.audit_chain import read_chain, verify_chain
from cluster.store.records import AuditEntry, audit_stream
from tests.support.clock import ManualClock
from tests.unit.control.lab import AUDITOR, ControlLab


def _refused(caller: str, resource: str = "secret/x") -> AuditEntry:
    return AuditEntry(at=0.0, caller=caller, action="secret.list", resource=resource, allowed=False)


def test_equal_refusals_become_one(clock: ManualClock) -> None:
    refusals = Refusals(clock)
    for number in range(5):
        refusals.note(_refused("a", f"secret/{number}"))
    refusals.note(_refused("b"))
    refusals.note(_refused("a", "node/1"))
    assert [(entry.caller, entry.count) for entry in refusals.take()] == [
        ("a", 5),
        ("b", 1),
        ("a", 1),
    ]
    assert refusals.take() == ()


@pytest.mark.threat("T-14")
def test_flood_from_many_callers_is_bounded_and_counted(clock: ManualClock) -> None:
    refusals = Refusals(clock)
    flood = TABLE_SIZE * 4
    for number in range(flood):
        refusals.note(_refused(f"anonymous@{number}"))
    taken = refusals.take()
    assert len(taken) == ENTRIES_PER_MINUTE + 1
    assert taken[-1].action == SUMMARY_ACTION
    assert sum(entry.count for entry in taken) == flood


@pytest.mark.threat("T-14")
def test_a_minute_has_its_limit_and_the_next_one_is_free(clock: ManualClock) -> None:
    refusals = Refusals(clock)
    written = 0
    for _window in range(6):
        for number in range(ENTRIES_PER_MINUTE):
            refusals.note(_refused(f"c{number}"))
        written += sum(entry.action != SUMMARY_ACTION for entry in refusals.take())
    assert written == ENTRIES_PER_MINUTE
    clock.advance(timedelta(minutes=1))
    refusals.note(_refused("a"))
    assert [entry.caller for entry in refusals.take()] == ["a"]


@pytest.mark.threat("T-14")
async def test_denied_requests_reach_the_audit(lab: ControlLab) -> None:
    for _ in range(3):
        with pytest.raises(PermissionDenied):
            await lab.nodes.remove(lab.context(AUDITOR), "n1")
    await lab.refusals.flush(lab.store)
    denied = [entry for entry in await _audit(lab) if not entry.allowed]
    assert [(entry.caller, entry.action, entry.resource, entry.count) for entry in denied] == [
        (AUDITOR.name, "node.remove", "node/n1", 3)
    ]


async def test_a_manager_that_stops_puts_its_last_refusals_on_record(lab: ControlLab) -> None:
    running = asyncio.create_task(lab.refusals.run(lab.store))
    await asyncio.sleep(0)
    with pytest.raises(PermissionDenied):
        await lab.nodes.remove(lab.context(AUDITOR), "n1")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [entry.count for entry in await _audit(lab) if not entry.allowed] == [1]


async def test_a_flush_that_is_cancelled_forgets_nothing(lab: ControlLab) -> None:
    with pytest.raises(PermissionDenied):
        await lab.nodes.remove(lab.context(AUDITOR), "n1")
    flushing = asyncio.create_task(lab.refusals.flush(lab.store))
    await asyncio.sleep(0)
    flushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flushing
    await lab.refusals.flush(lab.store)
    assert [entry for entry in await _audit(lab) if not entry.allowed]


async def test_each_write_is_committed_with_its_entry(lab: ControlLab) -> None:
    await lab.secret("db")
    (entry,) = await _audit(lab)
    assert (entry.action, entry.resource, entry.allowed) == ("secret.create", "secret/db", True)
    assert len(entry.writes) == 4


async def _audit(lab: ControlLab) -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    for lane in range(4):
        stream = audit_stream("m1", "b1", lane)  # type: ignore[arg-type]  # a plain id
        links = [link async for link in read_chain(lab.store.engine, lab.store.keyring, stream)]
        verify_chain(links)
        entries += [entry for link in links for entry in link.entries]
    return entries
