"""Controls of who may do what: with the decision taken away, the same request is granted."""

from datetime import datetime
from typing import Any

import pytest

from cluster.control import callers, requests
from cluster.control.audit_query import AuditFilter, AuditQuery
from cluster.control.policy import Action, Principal, Resource, Role
from cluster.dispatcher import assignments, health_notes, issue
from cluster.dispatcher.assignments import Records, assignments_of
from cluster.pki import csr
from cluster.protocol.errors import (
    ClusterError,
    NoQuorum,
    PermissionDenied,
    TokenRefused,
    Unauthenticated,
)
from cluster.protocol.identity import Caller, Kind, SpiffeId
from cluster.protocol.ids import NodeId
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.holds import Holds
from cluster.store.records import AuditEntry, VersionState
from cluster.store.records import Kind as RecordKind
from tests.unit.control.lab import DEPLOYER, TRUST_DOMAIN
from tests.unit.control.rollout_lab import Fleet
from tests.unit.dispatcher.lab import DispatchLab, WatchedEngine
from tests.unit.dispatcher.test_health_notes import mounted, report, verdict
from tests.unit.dispatcher.test_issue import issue as ask
from tests.unit.dispatcher.test_retired_versions import rotated

NODE = Principal(
    SpiffeId(TRUST_DOMAIN, Kind.NODE, "n1"), f"spiffe://{TRUST_DOMAIN}/node/n1", Role.NODE
)


def allow(principal: Principal, action: Action, resource: Resource, now: datetime) -> AuditEntry:
    """A policy that allows."""
    return AuditEntry(
        at=now.timestamp(), caller=principal.name, action=action.value,
        resource=str(resource), allowed=True,
    )  # fmt: skip


@pytest.mark.control("T-06", without="cluster/control/policy.py::authorize")
async def test_node_may_not_do_an_operators_work(
    lab: DispatchLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PermissionDenied):
        await lab.secrets.remove(lab.context(NODE), "db")
    await lab.secret("db")
    with pytest.raises(PermissionDenied):
        await lab.secrets.remove(lab.context(NODE), "db")
    monkeypatch.setattr(requests, "authorize", allow)
    await lab.secrets.remove(lab.context(NODE), "db")
    assert lab.view.secret_by_name("db") is None


@pytest.mark.control("T-47", without="cluster/control/policy.py::authorize")
async def test_label_is_compared_and_not_matched(
    lab: DispatchLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployer of team `red` beside a secret of team `Red`."""
    await lab.secret("db", team="Red")
    with pytest.raises(ClusterError):
        await lab.secrets.remove(lab.context(DEPLOYER), "db")
    monkeypatch.setattr(requests, "authorize", allow)
    await lab.secrets.remove(lab.context(DEPLOYER), "db")
    assert lab.view.secret_by_name("db") is None


@pytest.mark.control("T-42", without="cluster/control/audit_query.py::AuditQuery")
async def test_deployer_reads_no_audit(lab: DispatchLab, monkeypatch: pytest.MonkeyPatch) -> None:
    await lab.secret("db")
    query = AuditQuery(lab.requests)
    with pytest.raises(PermissionDenied):
        await query.read(DEPLOYER, AuditFilter())
    monkeypatch.setattr(requests, "authorize", allow)
    monkeypatch.setattr("cluster.control.audit_query.authorize", allow)
    answer = await query.read(DEPLOYER, AuditFilter())
    assert "secret/db" in str(answer["entries"])


@pytest.mark.control("T-53", without="cluster/control/configs.py::Configs")
async def test_config_is_read_by_whose_labels_it_carries(
    lab: DispatchLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.configs.create(lab.context(), "theirs", {"team": "blue"}, SecretBytes(b"content"))
    with pytest.raises(ClusterError):
        await lab.configs.read(DEPLOYER, "theirs")
    monkeypatch.setattr("cluster.control.configs.authorize", allow)
    assert (await lab.configs.read(DEPLOYER, "theirs"))["name"] == "theirs"


def caller(kind: Kind, subject: str, serial: int = 1) -> Caller:
    return Caller(SpiffeId(TRUST_DOMAIN, kind, subject), serial, "f", 9e9)


@pytest.mark.control("T-27", without="cluster/control/callers.py::principal_of")
async def test_record_decides_and_not_the_certificate(
    lab: DispatchLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator whose record names another certificate: without the look, the old one serves."""
    dan = caller(Kind.OPERATOR, "dan", serial=0xBAD)
    with pytest.raises(Unauthenticated):
        callers.principal_of(dan, lab.view)
    monkeypatch.setattr(callers, "_check_serial", lambda *_: None)
    assert callers.principal_of(dan, lab.view).role is Role.DEPLOYER


@pytest.mark.control("T-11", without="cluster/control/tokens.py::spend")
async def test_token_admits_once(lab: DispatchLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """One use; without the spending it admits whoever else has read it."""
    token = await lab.token()

    async def join(name: str) -> object:
        request = csr.make_csr(csr.new_key())
        return (await lab.enrolment.join_node(token, request, name, "127.0.0.1"))["node_id"]

    assert await join("n1")
    with pytest.raises(TokenRefused):
        await join("n2")
    monkeypatch.setattr("cluster.control.enrolment.spend", lambda record, *_: record)
    assert await join("n2")


# --- what a node is given ------------------------------------------------------------------------


@pytest.mark.control("T-05", without="cluster/dispatcher/assignments.py::assignments_of")
async def test_node_is_issued_its_own(lab: DispatchLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without placement looked at, a node is issued what runs elsewhere."""
    thief = await lab.running("db")
    victim = await lab.running("theirs", service="blue")
    with pytest.raises(PermissionDenied):
        await ask(lab, thief, "blue", "theirs")

    def everybodys(records: Records, node_id: NodeId) -> dict[str, Any]:
        return {**assignments_of(records, victim), **assignments_of(records, node_id)}

    monkeypatch.setattr(issue, "assignments_of", everybodys)
    monkeypatch.setattr(lab.receipts.__class__, "ensure", _granted)
    monkeypatch.setattr(lab.receipts.__class__, "missing", lambda *_: ())
    assert await ask(lab, thief, "blue", "theirs") == (1, b"theirs")


async def _granted(*_: object, **__: object) -> None:
    return None


@pytest.mark.control("T-09", without="cluster/store/barrier.py::Barrier")
async def test_barrier_precedes_every_delivery(
    lab: DispatchLab, engine: WatchedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manager without a majority, that has not heard of an eviction by another: without the
    barrier it issues to the evicted."""
    node_id = await lab.running("db")
    await ask(lab, node_id, "red", "db")

    async def no_majority() -> None:
        raise NoQuorum

    elsewhere = DispatchLab(lab.stores, await lab.stores.open("m2"))
    engine.flowing.clear()
    await elsewhere.evict(node_id)
    engine.before_barrier = no_majority
    with pytest.raises(NoQuorum):
        await ask(lab, node_id, "red", "db")
    monkeypatch.setattr(lab.store.__class__, "barrier", _granted)
    assert await ask(lab, node_id, "red", "db") == (1, b"db")
    # It was evicted all the while: the same manager refuses it once it hears of that.
    engine.flowing.set()
    await lab.view.wait_for(elsewhere.view.revision, 30.0)
    with pytest.raises(PermissionDenied):
        await ask(lab, node_id, "red", "db")


@pytest.mark.control("T-39", without="cluster/dispatcher/assignments.py::resolve")
async def test_retired_version_is_issued_no_more(
    lab: DispatchLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rotated(lab)
    lab.clock.advance(60)
    await lab.settle(lab.duty())
    stored = lab.view.secret_by_name("db")
    assert stored is not None
    old = stored.record.versions[0]
    assert old.state is VersionState.RETIRED
    assert assignments.resolve(stored.record, old.number) is None
    monkeypatch.setattr(assignments, "_ISSUED", frozenset(VersionState))
    assert assignments.resolve(stored.record, old.number) == old.number


@pytest.mark.control("T-36", without="cluster/dispatcher/health.py::is_about")
async def test_node_speaks_of_what_is_in_place(
    lab: DispatchLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the comparison a report on another version passes for the present one's."""
    _, service_id, heard = await mounted(lab, "db")
    lie = report(service_id, lab.key_of("db", 2))
    heard.take(lie)
    await heard.write()
    assert verdict(lab)[0] is None
    monkeypatch.setattr(health_notes, "is_about", lambda *_: True)
    heard.take(lie)
    await heard.write()
    assert verdict(lab)[0] is True


@pytest.mark.control("T-34", without="cluster/dispatcher/receipts.py::Receipts")
async def test_no_delivery_without_a_receipt(
    lab: DispatchLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the record first, what a node got would be in nobody's exposure."""
    node_id = await lab.running("db")
    await ask(lab, node_id, "red", "db")
    assert len(lab.view.table(RecordKind.RECEIPT)) == 1
    other = await lab.running("more", service="blue")
    monkeypatch.setattr(lab.receipts.__class__, "ensure", _granted)
    with pytest.raises(ClusterError):
        await ask(lab, other, "blue", "more")
    monkeypatch.setattr(lab.receipts.__class__, "missing", lambda *_: ())
    assert await ask(lab, other, "blue", "more") == (1, b"more")
    assert len(lab.view.table(RecordKind.RECEIPT)) == 1, "nothing tells of it"


@pytest.mark.control("T-41", without="cluster/store/holds.py::Holds")
async def test_held_version_is_not_issued(
    lab: DispatchLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the hold a task has the change before its turn."""
    fleet = Fleet(lab)
    await fleet.set_up()
    await fleet.rotate()
    other = next(node for node in fleet.nodes if node != fleet.changed())
    assert await ask(lab, other, "app", "db") == (1, b"value")
    monkeypatch.setattr(Holds, "version", lambda *_: None)
    assert await ask(lab, other, "app", "db") == (2, b"next")
