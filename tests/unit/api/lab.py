"""The API as the manager builds it, over a real store, asked in this process: TLS alone is left
out, by putting the caller where TLS would."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter
from starlette.types import ASGIApp, Message

from cluster.api import (
    routes_agent,
    routes_audit,
    routes_cluster,
    routes_configs,
    routes_events,
    routes_exposure,
    routes_join,
    routes_logs,
    routes_rollouts,
    routes_rotations,
    routes_secrets,
    routes_services,
    routes_versions,
)
from cluster.api.application import application
from cluster.api.limited_log import LimitedLog
from cluster.api.limits import Limits, Rate, RateLimiter
from cluster.api.request_log import RequestLog
from cluster.control.issuing import trust_bundle
from cluster.control.policy import Principal
from cluster.membership import NoAdmission
from cluster.metrics import Metrics
from cluster.protocol.identity import Caller, Kind, SpiffeId
from cluster.store.records import NodeRecord, OperatorRecord, OperatorRole
from cluster.store.sealed_store import SealedStore
from cluster.use_cases import UseCases
from tests.support.stores import StoreLab
from tests.unit.control.lab import TRUST_DOMAIN, ControlLab

PLENTY = Rate(per_s=1e6, burst=1e6)
BODY_LIMIT = 4_096


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def body(self) -> dict[str, Any]:
        return dict(json.loads(self.content))

    @property
    def revision(self) -> str:
        return self.headers["strongroom-revision"]


@dataclass
class Asked:
    """One exchange with an ASGI application."""

    pieces: list[bytes]
    sent: list[Message] = field(default_factory=list)

    async def receive(self) -> Message:
        if not self.pieces:
            return {"type": "http.disconnect"}
        body = self.pieces.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(self.pieces)}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def answer(self) -> Answer:
        headers = {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}
        content = b"".join(message.get("body", b"") for message in self.sent[1:])
        return Answer(self.sent[0]["status"], headers, content)


async def ask(
    app: ASGIApp,
    method: str,
    target: str,
    body: bytes | Iterable[bytes] = b"",
    *,
    caller: Caller | None = None,
    headers: Mapping[str, str] | None = None,
    address: str = "10.0.0.1",
) -> Answer:
    """Send one request and return the answer; a body in pieces declares no length."""
    sent = {name.lower().encode(): value.encode() for name, value in (headers or {}).items()}
    if isinstance(body, bytes):
        sent[b"content-length"] = str(len(body)).encode()
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        # An answer of many lines looks for no end of the connection, which comes at once here.
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": list(sent.items()),
        "client": (address, 1),
        "server": ("manager", 7443),
        "scheme": "https",
        "http_version": "1.1",
        "state": {"strongroom.caller": caller},
    }
    asked = Asked([body] if isinstance(body, bytes) else list(body))
    await app(scope, asked.receive, asked.send)
    return asked.answer()


class NoStatus:
    """A port: what the process knows of itself is tested with it."""

    async def read(self, principal: Principal) -> dict[str, Any]:
        return {}

    async def managers(self, principal: Principal) -> list[dict[str, Any]]:
        return []


class ApiLab:
    """Both listeners' applications, and callers for them."""

    def __init__(self, stores: StoreLab, store: SealedStore) -> None:
        self.control = ControlLab(stores, store)
        self.store = store
        self.ready = (True, "")
        self.metrics = Metrics()
        cases = self.cases = UseCases.build(
            store, TRUST_DOMAIN, "m1", stores.clock, stores.entropy, admits_managers=False
        )
        self.api = self._limited(
            routes_secrets.routes(cases.edge, cases.secrets),
            routes_versions.routes(cases.edge, cases.versions),
            routes_configs.routes(cases.edge, cases.configs),
            routes_rotations.routes(cases.edge, cases.secrets, cases.scheduled),
            routes_services.routes(cases.edge, cases.services),
            routes_rollouts.routes(cases.edge, cases.rollouts, cases.rollout_actions),
            routes_cluster.routes(
                cases.edge, cases.nodes, cases.tokens, cases.operators, cases.keys, NoStatus()
            ),
            routes_exposure.routes(cases.edge, cases.exposure, cases.evictions),
            routes_events.routes(cases.edge, cases.events),
            routes_logs.routes(cases.edge, cases.service_logs),
            routes_agent.routes(cases.edge, cases.requests, cases.sessions, cases.issue),
            routes_audit.routes(cases.edge, cases.audit),
        )
        self.join_api = self._limited(
            routes_join.routes(
                cases.enrolment,
                cases.operators,
                NoAdmission(),
                lambda: trust_bundle(store.view),
                lambda: self.ready,
            )
        )

    def _limited(self, *routers: APIRouter) -> ASGIApp:
        app = application("Strongroom", *routers)
        clock = self.control.clock
        limits = Limits(
            app, RateLimiter(PLENTY, clock), RateLimiter(PLENTY, clock), 64, lambda _: BODY_LIMIT,
            LimitedLog(clock, "api"),
        )  # fmt: skip
        return RequestLog(limits, clock, self.control.entropy, self.metrics, "api")

    async def initialise(self) -> None:
        """Write authorities, a manager and one operator of each kind that tests need."""
        await self.control.initialise()
        for name, role in (("ada", OperatorRole.ADMIN), ("aud", OperatorRole.AUDITOR)):
            await self.control.write(
                OperatorRecord(id=name, role=role, created_at=0.0, serials=("1",), not_after=9e9)
            )

    async def ask(
        self,
        method: str,
        target: str,
        body: object = b"",
        *,
        as_: str = "ada",
        headers: Mapping[str, str] | None = None,
        address: str = "10.0.0.1",
    ) -> Answer:
        """Ask as an operator; what is no bytes is sent as JSON."""
        caller = caller_of(Kind.OPERATOR, as_) if as_ else None
        return await ask(
            self.api,
            method,
            target,
            _encoded(body),
            caller=caller,
            headers=headers,
            address=address,
        )

    async def stranger(self, method: str, target: str, body: object = b"") -> Answer:
        """Ask the listener for strangers."""
        return await ask(self.join_api, method, target, _encoded(body))

    async def node(self, name: str) -> Caller:
        """Join a node and return it as a caller."""
        node_id = await self.control.join(name)
        stored = self.store.view.nodes.get(node_id)
        assert stored is not None
        assert isinstance(stored.record, NodeRecord)
        return caller_of(Kind.NODE, node_id, int(stored.record.serials[0], 16))


def caller_of(kind: Kind, subject: str, serial: int = 1) -> Caller:
    """Return whom TLS would have authenticated."""
    return Caller(SpiffeId(TRUST_DOMAIN, kind, subject), serial, f"{kind}/{subject}", 9e9)


def _encoded(body: object) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()
