"""The use cases of an unlocked manager, built once on its store and shared by its listeners."""

from dataclasses import dataclass
from typing import Self

from cluster.api.edge import Edge
from cluster.control.audit_query import AuditQuery
from cluster.control.configs import Configs
from cluster.control.enrolment import Enrolment
from cluster.control.events import Events
from cluster.control.evict_rotate import Evictions
from cluster.control.exposure import Exposure
from cluster.control.issuing import Issuer
from cluster.control.keys import Keys
from cluster.control.manager_removal import ManagerRemoval
from cluster.control.managers import Managers
from cluster.control.nodes import Nodes
from cluster.control.operators import Operators
from cluster.control.policy import Principal, Role
from cluster.control.refusals import Refusals
from cluster.control.requests import Requests
from cluster.control.rollout_actions import RolloutActions
from cluster.control.rollout_status import RolloutStatus
from cluster.control.scheduled import Scheduled
from cluster.control.secret_versions import SecretVersions
from cluster.control.secrets import Secrets
from cluster.control.service_certificates import ServiceCertificates
from cluster.control.service_logs import ServiceLogs
from cluster.control.services import Services
from cluster.control.tokens import Tokens
from cluster.dispatcher.issue import Issue
from cluster.dispatcher.log_calls import NodeLogs
from cluster.dispatcher.presence import Presence
from cluster.dispatcher.receipts import Receipts
from cluster.dispatcher.sessions import SessionParts
from cluster.hook.contract import Hooks
from cluster.hook.directory import HookDirectory
from cluster.protocol.identity import Kind, SpiffeId
from cluster.protocol.ids import ManagerId
from cluster.store.sealed_store import SealedStore
from cluster.system import Clock, Entropy


@dataclass(frozen=True, slots=True)
class UseCases:
    """What operators, agents and managers can ask of this manager."""

    manager_id: ManagerId
    own: Principal
    """This manager itself, for what it does by itself."""
    edge: Edge
    refusals: Refusals
    requests: Requests
    secrets: Secrets
    versions: SecretVersions
    configs: Configs
    services: Services
    service_logs: ServiceLogs
    rollouts: RolloutStatus
    rollout_actions: RolloutActions
    nodes: Nodes
    exposure: Exposure
    evictions: Evictions
    events: Events
    scheduled: Scheduled
    tokens: Tokens
    operators: Operators
    keys: Keys
    enrolment: Enrolment
    managers: Managers
    manager_removal: ManagerRemoval
    presence: Presence
    sessions: SessionParts
    issue: Issue
    audit: AuditQuery

    @classmethod
    def build(
        cls,
        store: SealedStore,
        trust_domain: str,
        manager_id: str,
        clock: Clock,
        entropy: Entropy,
        *,
        admits_managers: bool,
        hooks: Hooks | None = None,
    ) -> Self:
        """Return the use cases on a store that is open; `admits_managers`: of several managers."""
        own_id = ManagerId(manager_id)
        identity = SpiffeId(trust_domain, Kind.MANAGER, manager_id)
        refusals = Refusals(clock)
        requests = Requests(store, clock, refusals)
        nodes = Nodes(requests)
        scheduled = Scheduled(requests, entropy, hooks or HookDirectory())
        issuer = Issuer(clock, entropy)
        enrolment = Enrolment(requests, entropy, issuer)
        receipts = Receipts(store, clock, own_id)
        presence = Presence(store, clock, own_id)
        return cls(
            manager_id=own_id,
            own=Principal(identity, str(identity), Role.MANAGER),
            edge=Edge(store, entropy),
            refusals=refusals,
            requests=requests,
            secrets=Secrets(requests, entropy),
            versions=SecretVersions(requests, entropy),
            configs=Configs(requests, entropy),
            services=Services(requests, entropy),
            service_logs=ServiceLogs(requests, NodeLogs(presence)),
            rollouts=RolloutStatus(requests),
            rollout_actions=RolloutActions(requests),
            nodes=nodes,
            exposure=Exposure(requests),
            evictions=Evictions(requests, nodes, scheduled),
            events=Events(requests),
            scheduled=scheduled,
            tokens=Tokens(requests, entropy, admits_managers=admits_managers),
            operators=Operators(requests, entropy, issuer),
            keys=Keys(requests, entropy),
            enrolment=enrolment,
            managers=Managers(requests, entropy, issuer),
            manager_removal=ManagerRemoval(requests),
            presence=presence,
            sessions=SessionParts(
                store,
                receipts,
                enrolment,
                ServiceCertificates(requests, issuer),
                presence,
                clock,
                entropy,
                manager_id,
            ),
            issue=Issue(store, receipts, entropy),
            audit=AuditQuery(requests),
        )
