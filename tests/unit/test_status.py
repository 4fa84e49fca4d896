"""The status: everything unhealthy or weak is said, with its reason, and to whoever may know."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cluster.control.policy import Principal, Role
from cluster.control.requests import RequestContext
from cluster.control.version_terms import VersionTerms
from cluster.duties import ALIVE_PREFIX
from cluster.protocol.errors import PermissionDenied
from cluster.protocol.ids import ManagerId
from cluster.protocol.secret_bytes import SecretBytes
from cluster.status import ClusterStatus
from cluster.store.records import (
    Kind,
    ManagerRecord,
    ManagerState,
    NodeState,
    NodeStatusRecord,
    Record,
    RolloutKind,
    RolloutRecord,
    RolloutState,
)
from cluster.store.sealed_store import Create, Write
from tests.support.clock import ManualClock
from tests.support.stores import node, secret
from tests.unit.control.lab import operator
from tests.unit.founded import Founded, founded_cluster


@pytest.fixture
async def founded(tmp_path: Path, clock: ManualClock, seed: int) -> AsyncIterator[Founded]:
    async with founded_cluster(tmp_path, clock, seed) as founded:
        own = founded.cases.manager_id
        await founded.started.engine.campaign(ALIVE_PREFIX + own, own, 5.0)
        yield founded


def status_of(founded: Founded, provider: Path | None = None) -> ClusterStatus:
    return ClusterStatus(
        replace(founded.config, unlock_key_file=provider),
        founded.store,
        founded.started,
        founded.cases.requests,
        founded.cases.presence,
    )


async def findings(founded: Founded, provider: Path | None = None) -> dict[str, str]:
    """Return what is found: the reason, and how bad it is."""
    shown: Any = await status_of(founded, provider).summary()
    return {one["why"]: one["level"] for one in shown["findings"]}


async def write(founded: Founded, *records: Record) -> None:
    await founded.store.commit(Write(tuple(Create(record) for record in records)))


def manager(name: str, state: ManagerState = ManagerState.ACTIVE) -> ManagerRecord:
    return ManagerRecord(
        id=name, name=name, state=state, api_address="a:1", join_address="a:2", joined_at=0.0
    )


def standing(name: str, state: NodeState, strength: str = "secure") -> NodeStatusRecord:
    return NodeStatusRecord(
        id=name,
        state=state,
        manager_id=ManagerId("m"),
        session_id="s",
        since=0.0,
        strength=strength,
    )


async def test_single_manager_is_named_weak(founded: Founded) -> None:
    (why,) = await findings(founded)
    assert why.startswith("one manager tolerates no failure")


async def test_two_managers_are_named_weak_and_the_silent_one_unhealthy(founded: Founded) -> None:
    await write(founded, manager("m2"))
    found = await findings(founded)
    (down,) = [why for why, level in found.items() if level == "unhealthy"]
    assert down.startswith("manager m2 is down or locked")
    assert any(why.startswith("two managers tolerate no failure") for why in found)


async def test_joining_and_removed_managers_do_not_count(founded: Founded) -> None:
    await write(founded, manager("m2", ManagerState.PENDING), manager("m3", ManagerState.REMOVED))
    shown: Any = await status_of(founded).summary()
    assert [(one["name"], one["state"]) for one in shown["managers"]] == [
        ("m1", "ready"),
        ("m2", "joining"),
    ]
    assert not any(one["level"] == "unhealthy" for one in shown["findings"])


async def test_provider_file_is_named_weak(founded: Founded) -> None:
    found = await findings(founded, Path("/run/key"))
    assert any("unlocks by itself" in why and level == "weak" for why, level in found.items())


async def test_nodes_are_counted_and_what_is_wrong_with_them_is_said(founded: Founded) -> None:
    for name in ("up", "down", "weak", "new"):
        await write(founded, node(name))
    await write(
        founded,
        standing("up", NodeState.READY),
        standing("down", NodeState.DOWN),
        standing("weak", NodeState.READY, "weak"),
        standing("gone", NodeState.READY, "weak"),
    )
    shown: Any = await status_of(founded).summary()
    assert shown["nodes"] == {"unknown": 1, "ready": 2, "down": 1}
    found = await findings(founded)
    assert [why for why, level in found.items() if level == "unhealthy"] == [
        "nodes down: 1; see `strongroom node ls`"
    ]
    assert len([why for why in found if "could only prove weak" in why]) == 1


async def test_integrity_fault_is_unhealthy(founded: Founded) -> None:
    founded.store.view.fault(Kind.ROLLOUT, "a record cannot be opened")
    found = await findings(founded)
    assert any("rollout" in why and level == "unhealthy" for why, level in found.items())


async def test_a_paused_rollout_is_told_without_its_name(founded: Founded) -> None:
    why = "1 rollouts wait for a decision; see `strongroom rollout ls`"
    running = RolloutRecord(
        id="r1",
        what=RolloutKind.ROTATE,
        name="db",
        targets=(),
        started_at=0.0,
        started_by="test",
    )
    await write(founded, running)
    assert why not in await findings(founded)
    paused = msgspec.structs.replace(running, id="r2", state=RolloutState.PAUSED)
    await write(founded, paused)
    assert (await findings(founded))[why] == "unhealthy"


async def test_status_is_for_operators(founded: Founded) -> None:
    status = status_of(founded)
    assert (await status.read(operator("aud", Role.AUDITOR)))["lock"] == "unlocked"
    assert (await status.managers(operator("ada", Role.ADMIN)))[0]["leader"] is True
    stranger = Principal(None, "anonymous@x", Role.ANONYMOUS)
    for ask in (status.read, status.managers):
        with pytest.raises(PermissionDenied):
            await ask(stranger)


async def test_secrets_that_an_evicted_node_held_are_counted_without_their_names(
    founded: Founded,
) -> None:
    """Deployers read the status too: it names no secret."""
    whole = secret("whole", 1)
    exposed = msgspec.structs.replace(
        secret("exposed", 1, 2),
        versions=tuple(
            msgspec.structs.replace(version, exposed_at=1.0, exposed_by="n1")
            for version in secret("exposed", 1, 2).versions
        ),
    )
    await write(founded, whole)
    assert not any("evicted" in why for why in await findings(founded))
    await write(founded, exposed)
    (why,) = [why for why in await findings(founded) if "evicted" in why]
    assert why.startswith("secrets to rotate because a node that held them was evicted: 1;")


async def test_versions_that_expire_are_named_to_whoever_may_know(founded: Founded) -> None:
    """Seven days before, and after; a deployer learns of his own, root of the machine of none."""
    secrets, clock = founded.cases.secrets, founded.clock
    admin = RequestContext(Principal(None, "ada", Role.ADMIN), "a" * 26, "d")
    for number, (name, days, labels) in enumerate(
        [("old", 1, {"team": "red"}), ("soon", 8, {}), ("later", 30, {"team": "red"})]
    ):
        terms = VersionTerms(expires_in_s=days * 86_400.0)
        asked = replace(admin, request_id=str(2 + number) * 26)
        await secrets.create(asked, name, labels, SecretBytes(b"x"), terms)
    clock.advance(timedelta(days=2))
    status = status_of(founded)
    shown: Any = await status.read(operator("aud", Role.AUDITOR))
    assert [(one["secret"], one["expired"]) for one in shown["expiring"]] == [
        ("old", True),
        ("soon", False),
    ]
    said = {one["why"]: one["level"] for one in shown["findings"] if "expire" in one["why"]}
    assert [(why.partition(";")[0], level) for why, level in said.items()] == [
        ("version 1 of secret old expired at 2026-01-02T00:00:00.000Z", "unhealthy"),
        ("version 1 of secret soon expires at 2026-01-09T00:00:00.000Z", "weak"),
    ]
    shown = await status.read(operator("dan", Role.DEPLOYER, team="red"))
    assert [one["secret"] for one in shown["expiring"]] == ["old"]
    assert not any("soon" in one["why"] for one in shown["findings"])
    assert not any("expire" in why for why in await findings(founded))
