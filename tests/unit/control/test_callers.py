"""From a certificate to a principal."""

import msgspec
import pytest

from cluster.control.callers import principal_of, serial_text
from cluster.control.policy import Role
from cluster.protocol.errors import ClusterError, Evicted, PermissionDenied, Unauthenticated
from cluster.protocol.identity import Caller, Kind, SpiffeId
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import (
    ManagerRecord,
    ManagerState,
    NodeRecord,
    OperatorRecord,
    OperatorRole,
)
from tests.unit.control.lab import ADMIN, DEPLOYER, TRUST_DOMAIN, ControlLab

SERIAL = (1 << 144) + 0xABC
KNOWN = (serial_text(SERIAL), "older")


def _caller(kind: Kind, subject: str = "x1", serial: int = SERIAL) -> Caller:
    return Caller(SpiffeId(TRUST_DOMAIN, kind, subject), serial, "f", 0.0)


def _operator(role: OperatorRole, removed_at: float | None = None) -> OperatorRecord:
    return OperatorRecord(id="x1", role=role, created_at=0.0, serials=KNOWN, removed_at=removed_at)


def _manager(state: ManagerState) -> ManagerRecord:
    return ManagerRecord(
        id="x1",
        name="x1",
        state=state,
        api_address="h:1",
        join_address="h:2",
        joined_at=0.0,
        serials=KNOWN,
    )


NODE = NodeRecord(id="x1", name="x1", created_at=0.0, serials=KNOWN)


@pytest.mark.parametrize(
    ("kind", "record", "role"),
    [
        (Kind.NODE, NODE, Role.NODE),
        (Kind.OPERATOR, _operator(OperatorRole.ADMIN), Role.ADMIN),
        (Kind.OPERATOR, _operator(OperatorRole.DEPLOYER), Role.DEPLOYER),
        (Kind.OPERATOR, _operator(OperatorRole.AUDITOR), Role.AUDITOR),
        (Kind.MANAGER, _manager(ManagerState.ACTIVE), Role.MANAGER),
        (Kind.MANAGER, _manager(ManagerState.PENDING), Role.JOINING_MANAGER),
    ],
)
async def test_rights_come_from_the_record(
    lab: ControlLab, kind: Kind, record: NodeRecord, role: Role
) -> None:
    with pytest.raises(Unauthenticated):
        principal_of(_caller(kind), lab.view)
    await lab.write(record)
    assert principal_of(_caller(kind), lab.view).role is role
    with pytest.raises(Unauthenticated):
        principal_of(_caller(kind, serial=SERIAL + 1), lab.view)
    with pytest.raises(Unauthenticated):
        principal_of(_caller(kind, "other"), lab.view)


@pytest.mark.parametrize(
    ("kind", "record", "refusal"),
    [
        (Kind.NODE, msgspec.structs.replace(NODE, revoked_at=1.0), Evicted),
        (Kind.OPERATOR, _operator(OperatorRole.ADMIN, removed_at=1.0), Unauthenticated),
        (Kind.MANAGER, _manager(ManagerState.REMOVED), Unauthenticated),
    ],
)
async def test_whoever_was_removed_is_refused_whatever_his_certificate(
    lab: ControlLab, kind: Kind, record: NodeRecord, refusal: type[ClusterError]
) -> None:
    await lab.write(record)
    with pytest.raises(refusal):
        principal_of(_caller(kind), lab.view)


async def test_service_certificate_stands_for_nobody(lab: ControlLab) -> None:
    with pytest.raises(Unauthenticated):
        principal_of(_caller(Kind.SERVICE), lab.view)


async def test_caller_without_certificate_is_known_by_his_address(lab: ControlLab) -> None:
    principal = principal_of(None, lab.view, "192.0.2.7")
    assert (principal.role, principal.name) == (Role.ANONYMOUS, "anonymous@192.0.2.7")


async def test_a_manager_that_lags_cannot_write_for_a_removed_operator(
    lab: ControlLab, second: ControlLab
) -> None:
    """The write compares the operator's record: what this view has not seen yet still counts."""
    context = lab.context(DEPLOYER)
    await second.operators.remove(second.context(), "dan")
    with pytest.raises((Unauthenticated, PermissionDenied)):
        await lab.secrets.create(context, "late", {"team": "red"}, SecretBytes(b"x"))


async def test_rights_taken_away_meanwhile_do_not_count(lab: ControlLab) -> None:
    context = lab.context(ADMIN)
    await lab.write(OperatorRecord(id="ada", role=OperatorRole.AUDITOR, created_at=0.0))
    with pytest.raises(Unauthenticated):
        await lab.secrets.create(context, "late", {}, SecretBytes(b"x"))
