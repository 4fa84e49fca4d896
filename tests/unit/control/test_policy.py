"""The table: who may do what."""

from datetime import UTC, datetime

import pytest

from cluster.control.callers import LOCAL_ROOT, anonymous
from cluster.control.policy import (
    Action,
    Principal,
    Resource,
    Role,
    authorize,
    refusal,
)
from cluster.protocol.errors import PermissionDenied
from cluster.protocol.identity import Kind, SpiffeId

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def principal(role: Role, kind: Kind = Kind.OPERATOR, subject: str = "one") -> Principal:
    identity = SpiffeId("lab.example", kind, subject)
    return Principal(identity, str(identity), role, {"team": "red"})


EVERYONE = {
    Role.ADMIN: principal(Role.ADMIN),
    Role.DEPLOYER: principal(Role.DEPLOYER),
    Role.AUDITOR: principal(Role.AUDITOR),
    Role.NODE: principal(Role.NODE, Kind.NODE),
    Role.MANAGER: principal(Role.MANAGER, Kind.MANAGER),
    Role.JOINING_MANAGER: principal(Role.JOINING_MANAGER, Kind.MANAGER),
    Role.LOCAL_ROOT: LOCAL_ROOT,
    Role.ANONYMOUS: anonymous("192.0.2.1"),
}
BEST_CASE = Resource("thing", "x", {"team": "red"}, owner="one")
"""A resource that is in everybody's reach: what is still refused, the table refuses."""


def _allowed(role: Role, resource: Resource = BEST_CASE) -> set[str]:
    allowed = set()
    for action in Action:
        try:
            authorize(EVERYONE[role], action, resource, NOW)
        except PermissionDenied:
            continue
        allowed.add(action.value)
    return allowed


@pytest.mark.threat("T-06")
def test_node_may_do_four_things() -> None:
    own = {"session.open", "secret.issue", "node.renew", "service.certificate"}
    assert _allowed(Role.NODE) == own


def test_caller_without_certificate_may_only_prove_himself() -> None:
    assert _allowed(Role.ANONYMOUS) == {
        "node.join",
        "node.return",
        "operator.enrol",
        "manager.join",
    }


def test_auditor_changes_nothing_but_his_certificate() -> None:
    reads = {
        "secret.list",
        "secret.inspect",
        "secret.where",
        "config.list",
        "config.inspect",
        "service.list",
        "service.inspect",
        "service.tasks",
        "rollout.list",
        "rollout.inspect",
        "hook.list",
        "node.list",
        "node.inspect",
        "node.exposure",
        "token.list",
        "operator.list",
        "manager.list",
        "status.read",
        "metrics.read",
        "audit.read",
        "event.list",
    }
    assert _allowed(Role.AUDITOR) == reads | {"operator.renew"}


def test_nobody_but_nodes_is_issued_values() -> None:
    assert {role for role in Role if "secret.issue" in _allowed(role)} == {Role.NODE}


def test_deployer_touches_neither_nodes_nor_operators_nor_the_audit() -> None:
    areas = {action.partition(".")[0] for action in _allowed(Role.DEPLOYER)}
    assert areas == {"secret", "config", "service", "rollout", "event", "status", "operator"}
    assert "operator.add" not in _allowed(Role.DEPLOYER)


def test_duties_belong_to_managers() -> None:
    duties = {"placement.change", "rollout.update", "record.sweep", "cluster.alive"}
    assert duties <= _allowed(Role.MANAGER)
    for role in set(Role) - {Role.MANAGER}:
        assert not duties & _allowed(role)


def test_joining_manager_may_only_become_active() -> None:
    assert _allowed(Role.JOINING_MANAGER) == {"manager.activate"}


def test_local_root_handles_no_secrets() -> None:
    areas = {action.partition(".")[0] for action in _allowed(Role.LOCAL_ROOT)}
    assert not areas & {"secret", "config", "service", "session"}


@pytest.mark.parametrize("role", [Role.NODE, Role.JOINING_MANAGER])
@pytest.mark.threat("T-06")
def test_own_means_own(role: Role) -> None:
    assert _allowed(role, Resource("thing", "x", {"team": "red"}, owner="other")) == set()
    assert _allowed(role, Resource("thing", "x", {"team": "red"})) == set()


def test_renewal_is_for_oneself() -> None:
    for role in (Role.ADMIN, Role.DEPLOYER, Role.AUDITOR):
        others = _allowed(role, Resource("operator", "x", {"team": "red"}, owner="other"))
        assert "operator.renew" not in others


def test_entries_tell_who_asked_for_what() -> None:
    entry = authorize(EVERYONE[Role.ADMIN], Action.NODE_LIST, Resource("node"), NOW)
    assert (entry.caller, entry.action, entry.resource, entry.allowed) == (
        "spiffe://lab.example/operator/one",
        "node.list",
        "node",
        True,
    )
    denied = refusal(EVERYONE[Role.NODE], Action.NODE_LIST, Resource("node", "n1"), NOW)
    assert (denied.resource, denied.allowed) == ("node/n1", False)


@pytest.mark.threat("T-06")
def test_nodes_learn_nothing_from_a_denial() -> None:
    with pytest.raises(PermissionDenied) as denied:
        authorize(EVERYONE[Role.NODE], Action.SECRET_LIST, Resource("secret"), NOW)
    assert denied.value.message == PermissionDenied.default_message
