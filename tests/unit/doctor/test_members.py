"""What expires, and whose clock is wrong."""

from collections.abc import AsyncIterator
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path

import msgspec
import pytest

from cluster.doctor.members import DAY_S, MemberChecks, clock_check, expiry_check
from cluster.protocol.checks import Check, Strength
from cluster.store.sealed_store import Create, Write
from tests.support.clock import ManualClock
from tests.support.stores import node
from tests.unit.founded import TRUST_DOMAIN, Founded, founded_cluster


@pytest.fixture
async def founded(tmp_path: Path, clock: ManualClock, seed: int) -> AsyncIterator[Founded]:
    async with founded_cluster(tmp_path, clock, seed) as founded:
        yield founded


async def found(founded: Founded) -> dict[str, Check]:
    checks = await MemberChecks(founded.store.view, TRUST_DOMAIN, founded.clock).run()
    return {check.name: check for check in checks}


@pytest.mark.parametrize(
    ("told_after_s", "strength", "says"),
    [
        (0.0, Strength.SECURE, "agrees"),
        (-1.9, Strength.SECURE, "agrees"),
        (30.0, Strength.WEAK, "ahead of"),
        (-30.0, Strength.WEAK, "behind"),
        (90.0, Strength.INSECURE, "ahead of"),
        (-90.0, Strength.INSECURE, "behind"),
    ],
)
def test_clocks_are_compared_by_what_an_answer_tells(
    clock: ManualClock, told_after_s: float, strength: Strength, says: str
) -> None:
    asked_s = clock.now().timestamp()
    told = format_datetime(clock.now() + timedelta(seconds=told_after_s), usegmt=True)
    check = clock_check("m2", {"date": told}, asked_s, asked_s + 0.1)
    assert check.strength is strength
    assert says in check.detail


@pytest.mark.parametrize("headers", [{}, {"date": "yesterday"}])
def test_an_answer_without_a_time_proves_nothing(headers: dict[str, str]) -> None:
    assert clock_check("m2", headers, 0.0, 1.0).strength is Strength.WEAK


@pytest.mark.parametrize(
    ("left_s", "strength"),
    [(8 * DAY_S, Strength.SECURE), (6 * DAY_S, Strength.WEAK), (0.0, Strength.INSECURE)],
)
def test_certificates_are_judged_by_the_time_left(
    clock: ManualClock, left_s: float, strength: Strength
) -> None:
    ends = clock.now() + timedelta(seconds=left_s)
    check = expiry_check("m2", ends, clock.now().timestamp(), 7 * DAY_S)
    assert check.strength is strength


async def test_authorities_and_operators_are_looked_at(founded: Founded) -> None:
    checks = await found(founded)
    for role in ("root", "control", "workload"):
        assert checks[f"{role} authority"].strength is Strength.SECURE
    assert "operators" not in checks
    founded.clock.advance(31 * DAY_S)
    assert "operator renew" in (await found(founded))["operators"].detail


async def test_expired_nodes_are_named(founded: Founded) -> None:
    ends = founded.clock.now().timestamp() + 60.0
    record = msgspec.structs.replace(node("n1"), not_after=ends)
    await founded.store.commit(Write((Create(record),)))
    assert "nodes" not in await found(founded)
    founded.clock.advance(61.0)
    check = (await found(founded))["nodes"]
    assert check.strength is Strength.WEAK
    assert record.name in check.detail


async def test_a_manager_that_cannot_be_asked_is_insecure(founded: Founded) -> None:
    """Nothing listens in this process."""
    check = (await found(founded))[f"manager {founded.config.name}"]
    assert check.strength is Strength.INSECURE
    assert "cannot be asked" in check.detail
