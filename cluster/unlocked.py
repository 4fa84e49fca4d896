"""An unlocked manager: the store, the use cases on it, the two listeners and the duties, joined
together.

The composition root of everything that needs the root key. `cluster.manager` decides when one
exists.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import uvicorn
from fastapi import FastAPI

from cluster.api import (
    routes_agent,
    routes_audit,
    routes_checkpoint,
    routes_cluster,
    routes_configs,
    routes_events,
    routes_exposure,
    routes_join,
    routes_logs,
    routes_managers,
    routes_metrics,
    routes_rollouts,
    routes_rotations,
    routes_secrets,
    routes_services,
    routes_versions,
)
from cluster.api.application import application
from cluster.api.limited_log import LimitedLog
from cluster.api.limits import Limits, Rate, RateLimiter
from cluster.api.listener import Listener
from cluster.api.peer import ConnectionRegistry, peer_protocols
from cluster.api.refused import CountRefused, Refused
from cluster.api.request_log import RequestLog
from cluster.config import Config
from cluster.control.audit_archives import AuditArchives
from cluster.control.audit_statements import AuditStatements
from cluster.control.issuing import trust_bundle
from cluster.control.policy import Role
from cluster.departures import Departures
from cluster.doctor.members import MemberChecks
from cluster.duties import Duties
from cluster.engine_start import StartedEngine
from cluster.gauges import Gauges, Receipts, state_gauges
from cluster.hook.directory import HookDirectory
from cluster.manager_certificate import ManagerCertificate
from cluster.membership import ManagerAdmission, NoAdmission
from cluster.metrics import Metrics
from cluster.pki.tls import LiveContext
from cluster.protocol import wire
from cluster.protocol.errors import Locked
from cluster.protocol.identity import Kind as IdentityKind
from cluster.protocol.identity import SpiffeId
from cluster.protocol.ids import NodeId
from cluster.seal.unlock import SealFileContents, SealKey
from cluster.standing import State
from cluster.status import ClusterStatus
from cluster.store.audit_trim import AuditTrim
from cluster.store.records import (
    Kind,
    ManagerRecord,
    ManagerState,
    NodeRecord,
    OperatorRecord,
)
from cluster.store.sealed_store import SealedStore
from cluster.store.view import ViewChange
from cluster.system import Clock, Entropy
from cluster.use_cases import UseCases
from cluster.writability import Writability

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from cluster.api.membership import Membership

log = structlog.get_logger(__name__)

VALUE_BYTES: Final = 512_000
"""One more than a secret's largest value, so that the use case names the limit, not the edge."""
JSON_BYTES: Final = 256 * 1024
JOIN_BYTES: Final = 16 * 1024
API_RATE: Final = Rate(per_s=5_000, burst=10_000)
"""Per certificate."""
JOIN_RATE: Final = Rate(per_s=5, burst=50)
"""Per address, on the listener that strangers reach."""
SESSION_RATE: Final = Rate(per_s=2, burst=50)
"""Per certificate: an agent that comes back at once and often, but not without end."""
API_CONCURRENCY: Final = 512
JOIN_CONCURRENCY: Final = 64
LISTENERS: Final = ("api", "join")
"""As metrics name them: 7443 and 7444."""
START_LOOK_S: Final = 0.01
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
    metrics: Metrics
    cases: UseCases = field(init=False)
    archives: AuditArchives = field(init=False)
    writability: Writability = field(init=False)
    certificate: ManagerCertificate | None = None
    """None until it serves."""
    gauges: Gauges | None = None
    """None until it serves."""
    status: ClusterStatus = field(init=False)

    def __post_init__(self) -> None:
        contents = self.contents
        self.cases = UseCases.build(
            self.store, contents.trust_domain, contents.manager_id, self.clock, self.entropy,
            admits_managers=self.started.member is not None, hooks=self._hooks(),
        )  # fmt: skip
        self.writability = Writability(
            self.store.engine, self.store, self.cases.manager_id, self.clock, self.entropy
        )
        self.archives = AuditArchives(
            self.cases.requests, self._exports, contents.root_key, self.cases.own,
            self.cases.manager_id, self.config.audit_keep_s,
        )  # fmt: skip
        self.status = ClusterStatus(
            self.config, self.store, self.started, self.cases.requests, self.cases.presence
        )

    async def serve(self, on_serving: Callable[[], None]) -> None:
        """Serve until cancelled. Calls `on_serving` once both listeners answer."""
        cases = self.cases
        certificate = self.certificate = ManagerCertificate(
            self.config,
            self.contents,
            self.seal_key,
            self.store,
            cases.managers,
            cases.own,
            self.clock,
            self.entropy,
        )
        await self._be_active()
        await certificate.ensure_fresh()
        refused_api, refused_join = (self.metrics.refusing(name, Refused) for name in LISTENERS)
        registry = ConnectionRegistry(
            self.contents.trust_domain, self.clock,
            made_room=lambda: refused_join(Refused.CONNECTIONS),
        )  # fmt: skip
        self._watch_changes(registry)
        trim = AuditTrim(self.store, self.clock, self.entropy, self._exports, cases.manager_id)
        duties = Duties(
            self.started.engine, self.store, cases.own, self.clock, cases.manager_id, trim,
            self._hooks(), self.entropy, lambda: not self.writability.is_lost(),
        )  # fmt: skip
        self.gauges = self._gauges(trim, certificate)
        api = self._listener(
            self._limited("api", self._api(), API_RATE, API_CONCURRENCY, _body_limit, refused_api),
            registry,
            certificate.api_context,
            refused_api,
        )
        join = self._listener(
            self._limited(
                "join", self._join_api(), JOIN_RATE, JOIN_CONCURRENCY, _join_body_limit,
                refused_join,
            ),
            registry,
            certificate.join_context,
            refused_join,
        )  # fmt: skip
        async with asyncio.TaskGroup() as group:
            group.create_task(api.serve(sockets=[self.api_socket]), name="api")
            group.create_task(join.serve(sockets=[self.join_socket]), name="join")
            group.create_task(cases.presence.run(), name="presence")
            group.create_task(cases.refusals.run(self.store), name="refusals")
            group.create_task(duties.stay_alive(), name="alive")
            group.create_task(duties.run(), name="duties")
            group.create_task(certificate.run(), name="certificate")
            group.create_task(self._departures().run(), name="departures")
            group.create_task(self.writability.run(), name="writability")
            group.create_task(self.archives.run(), name="archives")
            while not (api.started and join.started):  # noqa: ASYNC110  # uvicorn tells by a flag
                await asyncio.sleep(START_LOOK_S)
            on_serving()

    def member_checks(self) -> MemberChecks:
        """Return what `strongroom doctor` asks for."""
        return MemberChecks(self.store.view, self.contents.trust_domain, self.clock)

    @property
    def _exports(self) -> Path:
        return self.config.data_dir / "audit"

    def _hooks(self) -> HookDirectory:
        return HookDirectory(self.config.hook_directory, self.config.hook_timeout_s)

    async def _be_active(self) -> None:
        """Note that this manager is in, where whoever admitted it crashed before noting it."""
        stored = self.store.view.managers.get(self.cases.manager_id)
        if stored is not None and stored.record.state is ManagerState.PENDING:
            joining = replace(self.cases.own, role=Role.JOINING_MANAGER)
            await self.cases.managers.activate(joining, self.cases.manager_id)

    @property
    def present_contents(self) -> SealFileContents:
        """What the seal file holds now: certificates are renewed."""
        return self.contents if self.certificate is None else self.certificate.contents

    # --- listeners ---

    def _api(self) -> FastAPI:
        """Return what the listener serves that requires a certificate."""
        cases = self.cases
        return application(
            "Strongroom API",
            routes_agent.routes(cases.edge, cases.requests, cases.sessions, cases.issue),
            routes_secrets.routes(cases.edge, cases.secrets),
            routes_versions.routes(cases.edge, cases.versions),
            routes_configs.routes(cases.edge, cases.configs),
            routes_rotations.routes(cases.edge, cases.secrets, cases.scheduled),
            routes_services.routes(cases.edge, cases.services),
            routes_rollouts.routes(cases.edge, cases.rollouts, cases.rollout_actions),
            routes_logs.routes(cases.edge, cases.service_logs),
            routes_cluster.routes(
                cases.edge, cases.nodes, cases.tokens, cases.operators, cases.keys, self.status
            ),
            routes_exposure.routes(cases.edge, cases.exposure, cases.evictions),
            routes_events.routes(cases.edge, cases.events),
            routes_audit.routes(cases.edge, cases.audit),
            routes_checkpoint.routes(cases.edge, self._statements),
            routes_metrics.routes(cases.edge, cases.requests, self.read_metrics),
            routes_managers.routes(cases.edge, self._membership(), self._departures()),
        )

    def _statements(self) -> AuditStatements:
        if self.certificate is None:
            raise Locked
        return AuditStatements(
            self.cases.audit, self.store, self.clock, self.cases.manager_id, self.certificate.sign
        )

    def _join_api(self) -> FastAPI:
        """Return what the listener for strangers serves."""
        return application(
            "Strongroom join API",
            routes_join.routes(
                self.cases.enrolment,
                self.cases.operators,
                self._membership(),
                lambda: trust_bundle(self.store.view),
                self.health,
            ),
        )

    def _membership(self) -> "Membership":
        if self.started.etcd is None:
            return NoAdmission()
        return ManagerAdmission(self.store, self.cases.managers, self.started.etcd, self.contents)

    def _departures(self) -> Departures:
        etcd = self.started.etcd
        return Departures(
            self.store, self.started.engine, None if etcd is None else etcd.membership,
            self.cases.manager_removal, self.cases.own, self.cases.manager_id,
        )  # fmt: skip

    def _limited(
        self,
        listener: str,
        app: FastAPI,
        rate: Rate,
        concurrency: int,
        body_limit: Callable[[str], int],
        count_refused: CountRefused,
    ) -> "ASGIApp":
        # The log is inside: what is over a limit must not fill a disk with lines either. Who it was
        # is told once a minute, by `LimitedLog`.
        return Limits(
            RequestLog(app, self.clock, self.entropy, self.metrics, listener),
            RateLimiter(rate, self.clock),
            RateLimiter(SESSION_RATE, self.clock),
            concurrency,
            body_limit,
            LimitedLog(self.clock, listener),
            count_refused,
        )

    def _listener(
        self,
        app: "ASGIApp",
        registry: ConnectionRegistry,
        context: LiveContext,
        count_refused: CountRefused,
    ) -> Listener:
        http, websocket = peer_protocols(registry, count_refused)
        return Listener(
            uvicorn.Config(
                app,
                http=http,
                ws=websocket,
                ws_max_size=wire.MAX_AGENT_MESSAGE_BYTES,
                ws_per_message_deflate=False,
                ssl_context_factory=lambda _config, _default: context.front,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=2,
                lifespan="off",
            ),
            count_refused,
        )

    # --- watching ---

    async def read_metrics(self) -> bytes:
        """Return what a scrape gets."""
        gauges = state_gauges(State.SERVING, ready=self.health()[0])
        if self.gauges is not None:
            gauges += await self.gauges.read()
        return self.metrics.render(gauges)

    def _gauges(self, trim: AuditTrim, certificate: ManagerCertificate) -> Gauges:
        receipts = Receipts(self.store, self.cases.manager_id, self.metrics)
        receipts.follow()
        return Gauges(
            self.store, self.started.engine, self.cases.presence, self.cases.refusals,
            self.writability, receipts, self.clock,
            certificate.ends_at_s, lambda: trim.links,
        )  # fmt: skip

    def _watch_changes(self, registry: ConnectionRegistry) -> None:
        """Wake the sessions a change affects, and cut the connections of whoever was revoked."""

        def on_change(change: ViewChange) -> None:
            self.cases.presence.on_change(change)
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
                elif isinstance(after, ManagerRecord) and after.state is ManagerState.REMOVING:
                    self._cut(registry, IdentityKind.MANAGER, record_id, 0.0)

        self.store.view.subscribe(on_change)

    def _cut(
        self, registry: ConnectionRegistry, kind: IdentityKind, subject: str, after_s: float
    ) -> None:
        identity = str(SpiffeId(self.contents.trust_domain, kind, subject))
        asyncio.get_running_loop().call_later(after_s, registry.cut_identity, identity)


def _body_limit(path: str) -> int:
    return VALUE_BYTES if path.startswith(("/v1/secrets", "/v1/configs")) else JSON_BYTES


def _join_body_limit(_path: str) -> int:
    return JOIN_BYTES
