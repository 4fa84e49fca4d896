"""A whole control layer over a real SQLite store, with authorities and an active manager."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from cluster.control.callers import principal_of
from cluster.control.configs import Configs
from cluster.control.enrolment import Enrolment
from cluster.control.evict_rotate import Evictions
from cluster.control.exposure import Exposure
from cluster.control.issuing import Issuer
from cluster.control.managers import Managers
from cluster.control.nodes import Nodes
from cluster.control.operators import Operators
from cluster.control.placement_duty import PlacementDuty
from cluster.control.policy import Principal, Role
from cluster.control.refusals import Refusals
from cluster.control.requests import RequestContext, Requests
from cluster.control.secret_versions import SecretVersions
from cluster.control.secrets import Secrets
from cluster.control.service_draft import ReferenceDraft, ServiceDraft
from cluster.control.services import Services
from cluster.control.tokens import Tokens
from cluster.pki import csr
from cluster.pki.ca import trust_anchor
from cluster.pki.join_token import JoinToken
from cluster.protocol.identity import Caller, Kind, SpiffeId
from cluster.protocol.ids import ManagerId, NodeId, ServiceId, VersionNumber, format_id
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import (
    AuthorityRecord,
    ManagerRecord,
    ManagerState,
    MountedVersion,
    NodeState,
    NodeStatusRecord,
    OperatorRecord,
    OperatorRole,
    Record,
    ServiceRecord,
    TaskStatusRecord,
    TokenRole,
    task_id,
)
from cluster.store.sealed_store import SealedStore
from cluster.store.steps import Create, Replace, Write
from cluster.store.view import Stored
from tests.support.authority import ClusterAuthority
from tests.support.stores import StoreLab

TRUST_DOMAIN = "lab.example"
MANAGER = "m1"


def operator(name: str, role: Role, **labels: str) -> Principal:
    """Return an operator's principal."""
    identity = SpiffeId(TRUST_DOMAIN, Kind.OPERATOR, name)
    return Principal(identity, str(identity), role, labels)


ADMIN = operator("ada", Role.ADMIN)
AUDITOR = operator("aud", Role.AUDITOR)
DEPLOYER = operator("dan", Role.DEPLOYER, team="red")


class ControlLab:
    """The use cases of one manager."""

    def __init__(self, stores: StoreLab, store: SealedStore) -> None:
        self.clock = stores.clock
        self.entropy = stores.entropy
        self.store = store
        self.view = store.view
        self.refusals = Refusals(self.clock)
        self.requests = Requests(store, self.clock, self.refusals)
        self.issuer = Issuer(self.clock, self.entropy)
        self.secrets = Secrets(self.requests, self.entropy)
        self.versions = SecretVersions(self.requests, self.entropy)
        self.configs = Configs(self.requests, self.entropy)
        self.services = Services(self.requests, self.entropy)
        self.nodes = Nodes(self.requests)
        self.exposure = Exposure(self.requests)
        self.evictions = Evictions(self.requests, self.nodes)
        self.tokens = Tokens(self.requests, self.entropy)
        self.operators = Operators(self.requests, self.entropy, self.issuer)
        self.enrolment = Enrolment(self.requests, self.entropy, self.issuer)
        self.managers = Managers(self.requests, self.entropy, self.issuer)
        self.alive = {ManagerId(MANAGER)}

    async def initialise(self) -> None:
        """Write what `init` writes beside the cluster record."""
        authority = ClusterAuthority(TRUST_DOMAIN, self.clock, self.entropy)
        for role in ("root", "control", "workload"):
            held = getattr(authority, role)
            certificate, key = held.to_der()
            anchor = trust_anchor(held, self.entropy).public_bytes(Encoding.DER)
            await self.write(
                AuthorityRecord(
                    id=role, role=role, certificate=certificate, private_key=key,
                    anchor=anchor if role == "workload" else b"",
                )
            )  # fmt: skip
        await self.write(
            ManagerRecord(
                id=MANAGER,
                name="first",
                state=ManagerState.ACTIVE,
                api_address="127.0.0.1:7443",
                join_address="127.0.0.1:7444",
                joined_at=0.0,
            )
        )

        for principal in (ADMIN, AUDITOR, DEPLOYER):
            assert principal.identity is not None
            await self.write(
                OperatorRecord(
                    id=principal.identity.subject,
                    role=OperatorRole(principal.role.value),
                    labels=dict(principal.labels),
                    created_at=0.0,
                )
            )

    def context(self, principal: Principal = ADMIN, request_id: str = "") -> RequestContext:
        """Return the context of a fresh request, or of a resent one."""
        return RequestContext(principal, request_id or format_id(self.entropy.token(16)), "digest")

    async def write(self, record: Record) -> None:
        """Write a record over whatever is there."""
        before = self.view.table(record.kind).get(record.id)
        step = Create(record) if before is None else Replace(before, record)
        await self.store.commit(Write((step,)))

    async def secret(self, name: str, value: bytes = b"value", **labels: str) -> None:
        """Store a secret."""
        await self.secrets.create(self.context(), name, labels, SecretBytes(value))

    async def service(self, name: str, *sources: str, **fields: object) -> Stored[ServiceRecord]:
        """Create a service that follows the primaries of some secrets."""
        draft = drafted(name, *sources, **fields)
        await self.services.create(self.context(), draft)
        found = self.view.service_by_name(name)
        assert found is not None
        return found

    async def token(self, role: TokenRole = TokenRole.WORKER, **fields: object) -> JoinToken:
        """Make a join token."""
        options = cast("dict[str, Any]", {"ttl": timedelta(minutes=30), **fields})
        answer = await self.tokens.create(self.context(), role, **options)
        return JoinToken.parse(str(answer.body["token"]))

    async def join(
        self, name: str, *, key: ec.EllipticCurvePrivateKey | None = None, ready: bool = True
    ) -> NodeId:
        """Join a node; `ready`: with a session on the first manager."""
        request = csr.make_csr(key or csr.new_key())
        reply = await self.enrolment.join_node(await self.token(), request, name, "127.0.0.1")
        node_id = NodeId(str(reply["node_id"]))
        if ready:
            await self.state(node_id, NodeState.READY)
        return node_id

    async def state(self, node_id: NodeId, state: NodeState, **fields: object) -> None:
        """Record what the dispatcher knows of a node."""
        options = cast("dict[str, Any]", {"manager_id": ManagerId(MANAGER), **fields})
        since = self.clock.now().timestamp()
        await self.write(
            NodeStatusRecord(id=node_id, state=state, session_id="s", since=since, **options)
        )

    async def mounted(
        self, service: str, node_id: NodeId, versions: Mapping[str, int], error: str = ""
    ) -> None:
        """Record that an agent reported a service's files, by secret name and version."""
        stored = self.view.service_by_name(service)
        assert stored is not None
        now = self.clock.now().timestamp()
        held = []
        for name, number in versions.items():
            secret = self.view.secret_by_name(name)
            assert secret is not None
            held.append(MountedVersion(secret.record.id, VersionNumber(number), now))  # type: ignore[arg-type]  # a plain id
        await self.write(
            TaskStatusRecord(
                id=task_id(ServiceId(stored.record.id), node_id),
                spec_number=stored.record.spec_number,
                mounted=tuple(held),
                error=error,
                at=now,
            )
        )

    def duty(self) -> PlacementDuty:
        """Return the placement duty, held by this manager."""
        identity = SpiffeId(TRUST_DOMAIN, Kind.MANAGER, MANAGER)
        principal = Principal(identity, str(identity), Role.MANAGER)
        return PlacementDuty(
            self.store, self.clock, principal, lambda write: write, lambda: self.alive
        )

    async def settle(self, duty: PlacementDuty, rounds: int = 3) -> None:
        """Let the duty look until nothing is left to do."""
        for _ in range(rounds):
            duty.look_again()
            await duty.round()

    def placed(self, service: str) -> set[str]:
        """Return the names of the nodes a service is placed on."""
        stored = self.view.service_by_name(service)
        assert stored is not None
        tasks = self.view.tasks_of_service(ServiceId(stored.record.id))
        names = set()
        for task in tasks:
            node = self.view.nodes.get(task.record.node_id)
            assert node is not None
            names.add(node.record.name)
        return names

    def principal(self, kind: Kind, subject: str, serial: str) -> Principal:
        """Return whom a certificate with this serial stands for."""
        identity = SpiffeId(TRUST_DOMAIN, kind, subject)
        return principal_of(Caller(identity, int(serial, 16), "f", 0.0), self.view)


def drafted(name: str, *sources: str, **fields: object) -> ServiceDraft:
    """Return a draft that follows the primaries of some secrets."""
    references = tuple(ReferenceDraft(source) for source in sources)
    options = {"name": name, "references": references, "uid": 1000, **fields}
    return ServiceDraft(**cast("dict[str, Any]", options))
