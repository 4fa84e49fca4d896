"""Every route by every kind of caller, over real TLS, against one explicit table.

The table says who may; everybody else must be refused, and each permission is tried too, so that a
refusal is never a request that fails for another reason. A route without a row fails the test.
"""

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import pytest
from fastapi import APIRouter
from starlette.routing import Route, WebSocketRoute

from cluster.api import (
    routes_agent,
    routes_audit,
    routes_checkpoint,
    routes_cluster,
    routes_configs,
    routes_events,
    routes_exposure,
    routes_logs,
    routes_managers,
    routes_metrics,
    routes_rollouts,
    routes_rotations,
    routes_secrets,
    routes_services,
    routes_versions,
)
from cluster.pki.csr import key_to_pem, make_csr, new_key
from cluster.protocol import wire
from cluster.protocol.errors import ClusterError, Unauthenticated
from cluster.protocol.identity import Kind as IdentityKind
from cluster.protocol.ids import format_id
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.aead import hpke_keypair
from cluster.seal.unlock import UnlockKey, unlock_verifier
from cluster.store.records import Kind
from cluster.system import SystemClock, SystemEntropy
from tests.support.attacker import (
    Insider,
    RawSession,
    answer_of,
    bare,
    enrol_operator,
    hello,
    join_node,
    stranger_call,
    tls_connection,
)
from tests.support.clock import ManualClock
from tests.support.issuing import IssueCaller, issue
from tests.support.running import (
    Answer,
    Credential,
    RunningCluster,
    credential_of,
    running_cluster,
)

pytestmark = pytest.mark.threat("T-06")

OPERATORS = "red-deployer admin"
READERS = "auditor admin"
CSR = base64.b64encode(make_csr(new_key())).decode()
SPEC = {"uid": 20_001, "gid": 20_001, "labels": {"team": "red"}, "replicas": 0}

Body = bytes | dict[str, Any] | None


@dataclass(frozen=True)
class Row:
    """A route, how it is called, and who may call it; `{caller}` stands for the caller's name."""

    method: str
    route: str
    allowed: str
    path: str = ""
    body: Body = None

    def path_for(self, caller: str) -> str:
        return (self.path or self.route).replace("{caller}", caller)

    def body_for(self, caller: str) -> Body:
        if not isinstance(self.body, dict):
            return self.body
        return {
            key: value.replace("{caller}", caller) if isinstance(value, str) else value
            for key, value in self.body.items()
        }


# Callers are tried in the order of `allowed`, after everybody who is not in it.
TABLE = (
    Row("POST", "/v1/secrets", OPERATORS, "/v1/secrets?name=new-{caller}&label=team=red", b"v"),
    Row("GET", "/v1/secrets", "blue-deployer red-deployer auditor admin"),
    Row("GET", "/v1/secrets/{name}", f"red-deployer {READERS}", "/v1/secrets/held"),
    Row("POST", "/v1/secrets/{name}/versions", OPERATORS, "/v1/secrets/idle/versions", b"v2"),
    Row("PATCH", "/v1/secrets/{name}/labels", OPERATORS, "/v1/secrets/idle/labels", {"add": {}}),
    Row(
        "GET", "/v1/secrets/{name}/versions", f"red-deployer {READERS}",
        "/v1/secrets/held/versions",
    ),
    Row("PATCH", "/v1/secrets/{name}", OPERATORS, "/v1/secrets/idle", {"keep": 3}),
    Row(
        "POST", "/v1/secrets/{name}/generated", OPERATORS, "/v1/secrets/made-{caller}/generated",
        {"generator": "hex", "labels": {"team": "red"}},
    ),
    Row(
        "PUT", "/v1/secrets/{name}/schedule", OPERATORS, "/v1/secrets/idle/schedule",
        {"generator": "hex"},
    ),
    Row("POST", "/v1/secrets/{name}/rotation", OPERATORS, "/v1/secrets/idle/rotation", {}),
    Row(
        "GET", "/v1/secrets/{name}/rotation", f"red-deployer {READERS}",
        "/v1/secrets/held/rotation",
    ),
    Row("DELETE", "/v1/secrets/{name}/rotation", OPERATORS, "/v1/secrets/held/rotation"),
    Row("DELETE", "/v1/secrets/{name}/schedule", OPERATORS, "/v1/secrets/idle/schedule"),
    Row("GET", "/v1/hooks", READERS),
    Row("POST", "/v1/secrets/{name}/rollback", OPERATORS, "/v1/secrets/idle/rollback", {}),
    Row("POST", "/v1/secrets/{name}/prune", OPERATORS, "/v1/secrets/idle/prune", {"keep": 1}),
    Row("DELETE", "/v1/secrets/{name}", OPERATORS, "/v1/secrets/held"),
    Row("POST", "/v1/configs", OPERATORS, "/v1/configs?name=new-{caller}&label=team=red", b"c"),
    Row("GET", "/v1/configs", "blue-deployer red-deployer auditor admin"),
    Row("GET", "/v1/configs/{name}", f"red-deployer {READERS}", "/v1/configs/plain"),
    Row("GET", "/v1/configs/{name}/content", OPERATORS, "/v1/configs/plain/content"),
    Row("PATCH", "/v1/configs/{name}/labels", OPERATORS, "/v1/configs/plain/labels", {"add": {}}),
    Row("DELETE", "/v1/configs/{name}", OPERATORS, "/v1/configs/plain"),
    Row("POST", "/v1/services", OPERATORS, "", {"name": "new-{caller}", **SPEC}),
    Row("GET", "/v1/services", "blue-deployer red-deployer auditor admin"),
    Row("GET", "/v1/services/{name}", f"red-deployer {READERS}", "/v1/services/idle"),
    Row(
        "PUT", "/v1/services/{name}", OPERATORS, "/v1/services/idle",
        {"spec": {"name": "idle", **SPEC}},
    ),
    Row("POST", "/v1/services/{name}/rollback", OPERATORS, "/v1/services/idle/rollback"),
    Row("GET", "/v1/services/{name}/tasks", f"red-deployer {READERS}", "/v1/services/red/tasks"),
    Row("GET", "/v1/services/{name}/logs", OPERATORS, "/v1/services/red/logs"),
    Row("DELETE", "/v1/services/{name}", OPERATORS, "/v1/services/idle"),
    Row("GET", "/v1/rollouts", "blue-deployer red-deployer auditor admin"),
    Row("GET", "/v1/rollouts/{rollout_id}", f"red-deployer {READERS}", "/v1/rollouts/{rollout}"),
    Row("POST", "/v1/rollouts/{rollout_id}/pause", OPERATORS, "/v1/rollouts/{rollout}/pause"),
    Row("POST", "/v1/rollouts/{rollout_id}/resume", OPERATORS, "/v1/rollouts/{rollout}/resume"),
    Row(
        "POST", "/v1/rollouts/{rollout_id}/rollback", OPERATORS,
        "/v1/rollouts/{rollout}/rollback",
    ),
    Row("GET", "/v1/status", "blue-deployer red-deployer auditor admin"),
    Row(
        "GET", "/v1/events", "blue-deployer red-deployer auditor admin",
        "/v1/events?name=no-such-object",
    ),
    Row("GET", "/v1/managers", READERS),
    Row("GET", "/metrics", READERS),
    Row("GET", "/v1/audit", READERS),
    Row("GET", "/v1/audit/verification", READERS),
    Row("POST", "/v1/audit/verification", READERS),
    Row("GET", "/v1/audit/checkpoint", READERS),
    Row("POST", "/v1/keys/rotate", "admin"),
    Row("GET", "/v1/nodes", READERS),
    Row("GET", "/v1/nodes/{name}", READERS, "/v1/nodes/n1"),
    Row("GET", "/v1/secrets/{name}/where", f"red-deployer {READERS}", "/v1/secrets/idle/where"),
    Row("GET", "/v1/nodes/{name}/exposure", READERS, "/v1/nodes/n1/exposure"),
    Row(
        "POST", "/v1/nodes/{name}/evict", "admin", "/v1/nodes/no-such-node/evict",
        {"rotate": True},
    ),
    Row("PATCH", "/v1/nodes/{name}", "admin", "/v1/nodes/other", {"add_labels": {"a": "b"}}),
    Row("DELETE", "/v1/nodes/{name}", "admin", "/v1/nodes/no-such-node"),
    Row("POST", "/v1/tokens", "admin", "", {"role": "worker"}),
    Row("GET", "/v1/tokens", READERS),
    Row("DELETE", "/v1/tokens/{token_id}", "admin", "/v1/tokens/no-such-token"),
    Row("POST", "/v1/operators", "admin", "", {"name": "new-{caller}", "role": "auditor"}),
    Row("GET", "/v1/operators", READERS),
    Row("DELETE", "/v1/operators/{name}", "admin", "/v1/operators/no-such-operator"),
    Row("POST", "/v1/renew", f"blue-deployer red-deployer {READERS}", "", {"csr": CSR}),
    Row("POST", "/v1/issue", "node", "", IssueCaller("anybody").body("red", "held")),
    Row("WEBSOCKET", "/v1/session", "other-node node"),
    Row("POST", "/v1/managers/learner", "joining-manager manager", "", {"fresh": False}),
    Row("POST", "/v1/managers/promote", "joining-manager manager"),
    Row("DELETE", "/v1/managers/{name}", "admin", "/v1/managers/no-such-manager"),
)  # fmt: skip
ROUTERS: tuple[Callable[..., APIRouter], ...] = (
    routes_agent.routes,
    routes_audit.routes,
    routes_checkpoint.routes,
    routes_cluster.routes,
    routes_configs.routes,
    routes_events.routes,
    routes_exposure.routes,
    routes_logs.routes,
    routes_managers.routes,
    routes_metrics.routes,
    routes_rollouts.routes,
    routes_rotations.routes,
    routes_secrets.routes,
    routes_services.routes,
    routes_versions.routes,
)
WRONG_CERTIFICATE = {"stranger": "tls", "service": "tls", "expired": "tls"}
"""Whom the handshake itself refuses, or the connection at once: not one byte is answered."""
WORTHLESS = {"evicted": 403, "removed-operator": 401, "forgotten": 401, "unnamed-manager": 401}
"""Whose certificate verifies and stands for nobody, on every route alike."""
NOBODY = {**WRONG_CERTIFICATE, **WORTHLESS}


@dataclass
class Stage:
    """A cluster with one of everything, and one of every kind of caller."""

    cluster: RunningCluster
    callers: dict[str, Credential] = field(default_factory=dict)
    rollout: str = ""

    def ask(self, row: Row, caller: str) -> "Answer | str":
        """Return the answer, or "tls" where there was no connection."""
        shown = self.callers[caller]
        try:
            if row.method == "WEBSOCKET":
                return self._session(shown)
            path = row.path_for(caller).replace("{rollout}", self.rollout)
            return self.cluster.call(row.method, path, row.body_for(caller), credential=shown)
        except Unauthenticated:
            return "tls"

    def _session(self, credential: Credential) -> "Answer | str":
        try:
            session = RawSession(self.cluster.managers[0], credential)
            session.send(hello())
            message = session.receive()
        except OSError:
            return "tls"
        session.close()
        if isinstance(message, wire.Welcome):
            return Answer(200, {}, {})
        status = {"unauthenticated": 401, "evicted": 403, "permission_denied": 403}
        return (
            Answer(status[message.code], {"code": message.code}, {})
            if isinstance(message, wire.Refusal)
            else "tls"
        )


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with running_cluster(agents=1, engine="etcd") as cluster:
        cluster.ok("POST", "/v1/secrets?name=held&label=team=red", b"held")
        cluster.ok("POST", "/v1/secrets?name=idle&label=team=red", b"idle")
        cluster.ok("POST", "/v1/configs?name=plain&label=team=red", b"plain")
        cluster.create_service("red", 20_003, "held", labels={"team": "red"})
        cluster.ok("POST", "/v1/services", {"name": "idle", **SPEC})
        stage = Stage(cluster)
        stage.rollout = cluster.ok("POST", "/v1/secrets/held/versions", b"held-2")["rollout"]
        stage.callers = everybody(cluster)
        yield stage


def everybody(cluster: RunningCluster) -> dict[str, Credential]:
    assert cluster.operator is not None
    insider = Insider.of(cluster)
    evicted, _ = join_node(cluster, "evicted")
    with tls_connection(cluster.managers[0].api, evicted.context()) as open_before:
        cluster.ok("DELETE", "/v1/nodes/evicted")
        # All that an evicted node has open is cut a little later; from then on it is answered.
        answer_of(open_before, b"")
    removed = enrol_operator(cluster, "removed-operator", "admin")
    cluster.ok("DELETE", "/v1/operators/removed-operator")
    past = ManualClock(SystemClock().now() - timedelta(hours=2))
    serial = insider.serial_of(Kind.OPERATOR, "admin")
    return {
        "stranger": bare(cluster),
        "service": insider.issue(IdentityKind.SERVICE, "red"),
        "expired": insider.issue(IdentityKind.OPERATOR, "admin", serial=serial, clock=past),
        "forgotten": insider.issue(IdentityKind.OPERATOR, "admin"),
        "unnamed-manager": insider.issue(IdentityKind.MANAGER, insider.contents.manager_id),
        "evicted": evicted,
        "removed-operator": removed,
        "node": Credential.of_node(cluster.agents[0].data_dir),
        "other-node": join_node(cluster, "other")[0],
        "auditor": enrol_operator(cluster, "auditor", "auditor"),
        "red-deployer": enrol_operator(cluster, "red-deployer", "deployer", team="red"),
        "blue-deployer": enrol_operator(cluster, "blue-deployer", "deployer", team="blue"),
        "admin": cluster.operator,
        "manager": insider.manager_credential(),
        "joining-manager": joining_manager(cluster),
    }


def joining_manager(cluster: RunningCluster) -> Credential:
    """Return the certificate of a manager that asked to join and went no further."""
    key = new_key()
    unlock_key = UnlockKey.parse(SecretBytes(cluster.unlock_key.encode()))
    body = {
        "token": cluster.ok("POST", "/v1/tokens", {"role": "manager"})["token"],
        "csr": base64.b64encode(make_csr(key)).decode(),
        "hpke_key": base64.b64encode(hpke_keypair().public_key).decode(),
        "unlock_verifier": base64.b64encode(unlock_verifier(unlock_key)).decode(),
        "name": "joining",
        "api_address": "127.0.0.1:1",
        "join_address": "127.0.0.1:2",
        "peer_address": "127.0.0.1:3",
    }
    answer = stranger_call(cluster, cluster.managers[0], "POST", "/v1/join-manager", body)
    assert answer.status == 200, answer.body
    return credential_of(answer.body, key_to_pem(key))


def test_every_route_has_a_row(stage: Stage) -> None:
    """What the manager serves, what the routers declare and the table are one list."""
    served = stage.cluster.call("GET", "/openapi.json").body["paths"]
    over_http = {(method.upper(), path) for path, methods in served.items() for method in methods}
    declared = set()
    for build in ROUTERS:
        router = build(*([cast("Any", None)] * build.__code__.co_argcount))
        for route in router.routes:
            if isinstance(route, WebSocketRoute):
                declared.add(("WEBSOCKET", route.path))
            elif isinstance(route, Route):
                declared |= {(method, route.path) for method in route.methods or ()}
    rows = {(row.method, row.route) for row in TABLE}
    assert declared == rows
    assert over_http == {row for row in rows if row[0] != "WEBSOCKET"}


@pytest.mark.threat("T-12")
@pytest.mark.threat("T-27")
@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.method} {row.route}")
def test_route_answers_whom_it_should_and_nobody_else(stage: Stage, row: Row) -> None:
    allowed = row.allowed.split()
    assert set(allowed) <= set(stage.callers)
    refused = [caller for caller in stage.callers if caller not in allowed]
    wrong: dict[str, object] = {}
    for caller in refused:
        answer = stage.ask(row, caller)
        status = answer if isinstance(answer, str) else answer.status
        if status != NOBODY.get(caller, 403):
            wrong[caller] = answer
    for caller in allowed:
        answer = stage.ask(row, caller)
        if isinstance(answer, str) or answer.status in {401, 403, 422, 500}:
            wrong[caller] = answer
    assert wrong == {}


def test_refusals_of_nodes_tell_nothing(stage: Stage) -> None:
    """For a node, what exists elsewhere and what does not exist read the same."""
    other = stage.callers["other-node"]
    exists, absent = (
        issue(stage.cluster, service, name, other)
        for service, name in (("red", "held"), ("no-such", "no-such"))
    )
    assert (exists.status, exists.body) == (absent.status, absent.body)
    assert exists.status == 403


def test_deployer_sees_only_what_carries_his_labels(stage: Stage) -> None:
    """The list is open to him, what is not his is not in it, and naming it reads as absent."""
    blue = stage.callers["blue-deployer"]
    for path, key in (("/v1/secrets", "secrets"), ("/v1/services", "services")):
        assert stage.cluster.call("GET", path, credential=blue).body[key] == []
        assert stage.cluster.ok("GET", path)[key] != []
    held, absent = (
        stage.cluster.call("GET", f"/v1/secrets/{name}", credential=blue)
        for name in ("held", "no-such")
    )
    assert (held.status, held.body) == (absent.status, absent.body)


def test_request_id_is_bound_to_its_caller_and_its_body(stage: Stage) -> None:
    """An answer is not read by another caller, nor is another body believed to be done."""
    header = {"strongroom-request-id": format_id(SystemEntropy().token(16))}
    path = "/v1/secrets?name=once&label=team=red"
    first = stage.cluster.call("POST", path, b"one", headers=header)
    assert stage.cluster.call("POST", path, b"one", headers=header).body == first.body
    for body, credential in ((b"two", None), (b"one", stage.callers["red-deployer"])):
        answer = stage.cluster.call("POST", path, body, headers=header, credential=credential)
        assert (answer.status, answer.body["code"]) == (409, "request_id_reused")


def test_identity_is_taken_from_no_header(stage: Stage) -> None:
    """What proxies pass on names nobody here."""
    assert stage.cluster.operator is not None
    spoofed = {
        "x-forwarded-client-cert": "URI=spiffe://test.strongroom/operator/admin",
        "x-ssl-client-cert": stage.cluster.operator.chain_pem.split(b"-----")[2].hex(),
        "forwarded": "for=127.0.0.1;by=admin",
        "authorization": "Bearer admin",
        "x-forwarded-for": "127.0.0.1",
    }
    node = stage.callers["node"]
    answer = stage.cluster.call("GET", "/v1/operators", credential=node, headers=spoofed)
    assert answer.status == 403
    with pytest.raises(ClusterError):
        stage.cluster.call("GET", "/v1/operators", credential=bare(stage.cluster), headers=spoofed)
