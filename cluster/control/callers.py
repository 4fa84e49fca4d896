"""From a certificate to a principal: rights and state are read from the record at every call.

Owns the rule that a certificate proves an id and nothing more. A certificate that its record no
longer names is refused, however long it is still valid. Source: DESIGN 5.
"""

import hmac
from typing import Final

from cluster.control.policy import LOCAL_ROOT_NAME, Principal, Role
from cluster.protocol.errors import Evicted, Unauthenticated
from cluster.protocol.identity import Caller, Kind
from cluster.store.records import CLUSTER_ID, ManagerState, OperatorRole
from cluster.store.view import View

LOCAL_ROOT: Final = Principal(None, LOCAL_ROOT_NAME, Role.LOCAL_ROOT)
"""Whoever reached the admin socket, which only root of the manager's machine can."""

_OPERATOR_ROLES: Final = {
    OperatorRole.ADMIN: Role.ADMIN,
    OperatorRole.DEPLOYER: Role.DEPLOYER,
    OperatorRole.AUDITOR: Role.AUDITOR,
}


def anonymous(address: str) -> Principal:
    """Return the principal of a caller without a certificate; `address` is its IP address."""
    return Principal(None, f"anonymous@{address}", Role.ANONYMOUS)


def serial_text(serial: int) -> str:
    """Return a certificate's serial as records keep it: lower-case hex without a prefix."""
    return format(serial, "x")


def principal_of(caller: Caller | None, view: View, address: str = "unknown") -> Principal:
    """Return who calls, by the records as they stand in `view`.

    Raises Evicted for a node that was removed, Unauthenticated for everyone whose certificate is
    not, or no longer, the one on record.
    """
    if caller is None:
        return anonymous(address)
    cluster = view.cluster.get(CLUSTER_ID)
    if cluster is None or caller.identity.trust_domain != cluster.record.trust_domain:
        raise Unauthenticated
    match caller.identity.kind:
        case Kind.NODE:
            return _node(caller, view)
        case Kind.OPERATOR:
            return _operator(caller, view)
        case Kind.MANAGER:
            return _manager(caller, view)
        case Kind.SERVICE:
            # A service's certificate opens nothing here; TLS refused it already.
            raise Unauthenticated


def _node(caller: Caller, view: View) -> Principal:
    stored = view.nodes.get(caller.identity.subject)
    if stored is None:
        raise Unauthenticated
    if stored.record.revoked_at is not None:
        raise Evicted
    _check_serial(caller, stored.record.serials)
    return Principal(caller.identity, str(caller.identity), Role.NODE)


def _operator(caller: Caller, view: View) -> Principal:
    stored = view.operators.get(caller.identity.subject)
    if stored is None or stored.record.removed_at is not None:
        raise Unauthenticated
    _check_serial(caller, stored.record.serials)
    role = _OPERATOR_ROLES[stored.record.role]
    return Principal(caller.identity, str(caller.identity), role, stored.record.labels)


def _manager(caller: Caller, view: View) -> Principal:
    stored = view.managers.get(caller.identity.subject)
    if stored is None:
        raise Unauthenticated
    _check_serial(caller, stored.record.serials)
    match stored.record.state:
        case ManagerState.ACTIVE:
            role = Role.MANAGER
        case ManagerState.PENDING:
            role = Role.JOINING_MANAGER
        case ManagerState.REMOVING | ManagerState.REMOVED:
            raise Unauthenticated
    return Principal(caller.identity, str(caller.identity), role)


def _check_serial(caller: Caller, serials: tuple[str, ...]) -> None:
    presented = serial_text(caller.serial).encode()
    if not any(hmac.compare_digest(presented, known.encode()) for known in serials):
        raise Unauthenticated
