"""An unlocked manager: the store, the use cases on it, the two listeners and the duties, joined together.

The composition root of everything that needs the root key. `cluster.manager` decides when one exists.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from cluster.api import (
    error_map,
    routes_agent,
    routes_cluster,
    routes_join,
    routes_managers,
    routes_secrets,
    routes_services,
)
from cluster.api.edge import Edge
from cluster.api.limits import Limits, Rate, RateLimiter
from cluster.api.listener import Listener
from cluster.api.membership import Membership
from cluster.api.peer import ConnectionRegistry, peer_protocols
from cluster.config import Config
from cluster.control.enrolment import Enrolment
from cluster.control.issuing import Issuer, trust_bundle
from cluster.control.keys import Keys
from cluster.control.managers import Managers
from cluster.control.nodes import Nodes
from cluster.control.operators import Operators
from cluster.control.policy import Principal, Role
from cluster.control.refusals import Refusals
from cluster.control.requests import Requests
from cluster.control.rollout_status import RolloutStatus
from cluster.control.secrets import Secrets
from cluster.control.services import Services
from cluster.control.tokens import Tokens
from cluster.dispatcher.issue import Issue
from cluster.dispatcher.presence import Presence
from cluster.dispatcher.receipts import Receipts
from cluster.dispatcher.sessions import SessionParts
from cluster.duties import Duties
from cluster.engine_start import StartedEngine
from cluster.manager_certificate import ManagerCertificate
from cluster.membership import EtcdMembership, NoMembership
from cluster.protocol import wire
from cluster.protocol.errors import ClusterError
from cluster.protocol.identity import Kind as IdentityKind
from cluster.protocol.identity import SpiffeId
from cluster.protocol.ids import ManagerId, NodeId
from cluster.seal.unlock import SealFileContents, SealKey
from cluster.status import ClusterStatus
from cluster.store.records import Kind, NodeRecord, OperatorRecord
from cluster.store.sealed_store import SealedStore
from cluster.store.view import ViewChange
from cluster.system import Clock, Entropy

log = structlog.get_logger(__name__)

VALUE_BYTES: Final = 512_000
"""One more than a secret's largest value, so that the use case names the limit, not the edge."""
JSON_BYTES: Final = 256 * 1024
JOIN_BYTES: Final = 16 * 1024
API_RATE: Final = Rate(per_s=5_000, burst=10_000)
"""Per certificate."""
JOIN_RATE: Final = Rate(per_s=5, burst=50)
"""Per address, on the listener that strangers reach."""
API_CONCURRENCY: Final = 512
JOIN_CONCURRENCY: Final = 64
LOOK_S: Final = 3.0
CUT_AFTER_S: Final = 2.5
"""A revoked node's sessions wipe for 2 s at most; whatever is still open then is cut."""


@dataclass(slots=True)
class UnlockedManager:
    """Everything that runs while a manager is unlocked."""

    config: Config
    contents: SealFileContents
    seal_key: SealKey
    started: StartedEngine
    store: SealedStore
    clock: Clock
    entropy: Entropy
    api_socket: socket.socket
    join_socket: socket.socket
    health: Callable[[], tuple[bool, str]]
    writable: bool = True
    operators: Operators = field(init=False)
    status: ClusterStatus = field(init=False)
    certificate: ManagerCertificate = field(init=False)
    _listeners: list[Listener] = field(default_factory=list)
    _cuts: set[asyncio.TimerHandle] = field(default_factory=set)

    async def serve(self, on_serving: Callable[[], None]) -> None:
        """Serve until cancelled. Calls `on_serving` once both listeners answer."""
        registry = ConnectionRegistry(self.contents.trust_domain, self.clock)
        refusals = Refusals(self.clock)
        requests = Requests(self.store, self.clock, refusals)
        issuer = Issuer(self.clock, self.entropy)
        manager_id = ManagerId(self.contents.manager_id)
        receipts = Receipts(self.store, self.clock, manager_id)
        presence = Presence(self.store, self.clock, manager_id)
        identity = SpiffeId(self.contents.trust_domain, IdentityKind.MANAGER, manager_id)
        own = Principal(identity, str(identity), Role.MANAGER)
        enrolment = Enrolment(requests, self.entropy, issuer)
        managers = Managers(requests, self.entropy, issuer)
        self.operators = Operators(requests, self.entropy, issuer)
        self.certificate = ManagerCertificate(
            self.config,
            self.contents,
            self.seal_key,
            self.store,
            managers,
            own,
            self.clock,
            self.entropy,
        )
        await self.certificate.ensure_fresh()
        parts = SessionParts(
            self.store, receipts, enrolment, presence, self.clock, self.entropy, manager_id
        )
        membership: Membership = (
            EtcdMembership(self.store, managers, self.started.etcd, self.contents)
            if self.started.etcd is not None
            else NoMembership()
        )
        self.status = ClusterStatus(self.config, self.store, self.started, requests, presence)
        edge = Edge(self.store, self.entropy)
        api = self._app("Strongroom API")
        for router in (
            routes_secrets.routes(edge, Secrets(requests, self.entropy)),
            routes_services.routes(edge, Services(requests, self.entropy), RolloutStatus(requests)),
            routes_cluster.routes(
                edge,
                Nodes(requests),
                Tokens(requests, self.entropy),
                self.operators,
                Keys(requests, self.entropy),
                self.status,
            ),
            routes_agent.routes(edge, requests, parts, Issue(self.store, receipts)),
            routes_managers.routes(edge, membership),
        ):
            api.include_router(router)
        join = self._app("Strongroom join API")
        join.include_router(
            routes_join.routes(
                enrolment,
                self.operators,
                membership,
                lambda: trust_bundle(self.store.view),
                self.health,
            )
        )
        duties = Duties(self.started.engine, self.store, own, self.clock, manager_id)
        self._watch_changes(presence, registry)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(api, registry, self.api_socket, secured=True))
            group.create_task(self._listen(join, registry, self.join_socket, secured=False))
            group.create_task(presence.run(), name="presence")
            group.create_task(refusals.run(self.store), name="refusals")
            group.create_task(duties.stay_alive(), name="alive")
            group.create_task(duties.run(), name="duties")
            group.create_task(self.certificate.run(), name="certificate")
            group.create_task(self._watch_writability(), name="writability")
            await self._until_listening()
            on_serving()

    async def _watch_writability(self) -> None:
        """Know at any time whether a record could be written: if not, nothing is issued and readiness is red."""
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self.store.barrier()
                    self.writable = not (await self.started.engine.status()).alarms
            except (ClusterError, TimeoutError):
                self.writable = False
            await asyncio.sleep(LOOK_S)

    def _app(self, title: str) -> FastAPI:
        app = FastAPI(title=title, docs_url=None, redoc_url=None)
        error_map.install(app)
        return app

    async def _listen(
        self, app: FastAPI, registry: ConnectionRegistry, bound: socket.socket, *, secured: bool
    ) -> None:
        http, websocket = peer_protocols(registry)
        rate, concurrency = (
            (API_RATE, API_CONCURRENCY) if secured else (JOIN_RATE, JOIN_CONCURRENCY)
        )
        limited: ASGIApp = Limits(
            app,
            RateLimiter(rate, self.clock),
            concurrency,
            _body_limit if secured else (lambda _path: JOIN_BYTES),
        )
        live = self.certificate.api_context if secured else self.certificate.join_context
        listener = Listener(
            uvicorn.Config(
                limited,
                http=http,
                ws=websocket,
                ws_max_size=wire.MAX_AGENT_MESSAGE_BYTES,
                ws_per_message_deflate=False,
                ssl_context_factory=lambda _config, _default: live.front,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=64 * 1024,
                timeout_graceful_shutdown=2,
                lifespan="off",
            )
        )
        self._listeners.append(listener)
        await listener.serve(sockets=[bound])

    async def _until_listening(self) -> None:
        while len(self._listeners) < 2 or not all(one.started for one in self._listeners):
            await asyncio.sleep(0.01)

    def _watch_changes(self, presence: Presence, registry: ConnectionRegistry) -> None:
        """Wake the sessions a change affects, and cut the connections of whoever was revoked."""

        def on_change(change: ViewChange) -> None:
            presence.on_change(change)
            for kind, record_id, _before, after in change.changed:
                if (
                    kind is Kind.NODE
                    and isinstance(after, NodeRecord)
                    and after.revoked_at is not None
                ):
                    self._cut(registry, IdentityKind.NODE, NodeId(record_id), CUT_AFTER_S)
                elif (
                    kind is Kind.OPERATOR and isinstance(after, OperatorRecord) and after.removed_at
                ):
                    self._cut(registry, IdentityKind.OPERATOR, record_id, 0.0)

        self.store.view.subscribe(on_change)

    def _cut(
        self, registry: ConnectionRegistry, kind: IdentityKind, subject: str, after_s: float
    ) -> None:
        identity = str(SpiffeId(self.contents.trust_domain, kind, subject))
        asyncio.get_running_loop().call_later(after_s, registry.cut_identity, identity)


def _body_limit(path: str) -> int:
    return VALUE_BYTES if path.startswith("/v1/secrets") else JSON_BYTES
