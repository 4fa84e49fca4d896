"""The admin socket: init, join, unlock, status and the way back in, for root of the manager's
machine only.

It is a unix socket with mode 0600 in a directory of mode 0700, and the only thing a locked manager
runs.
"""

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec
import structlog
from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from cluster.api.edge import decoded
from cluster.api.error_map import json_response
from cluster.protocol.errors import ClusterError

log = structlog.get_logger(__name__)


class InitRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Found a cluster."""

    unlock_key: str
    engine: str
    trust_domain: str
    operator: str
    csr: bytes
    node_ttl_s: float = 86_400.0
    """How long a node's certificate lives; `cluster.founding` holds the limits."""
    service_ttl_s: float = 3_600.0
    """How long a service's certificate lives."""

    def __repr__(self) -> str:
        return "InitRequest(<redacted>)"


class JoinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Join this manager to a cluster."""

    unlock_key: str
    token: str
    managers: tuple[str, ...]
    """host:port of join listeners."""

    def __repr__(self) -> str:
        return "JoinRequest(<redacted>)"


class UnlockRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Unlock this manager."""

    unlock_key: str

    def __repr__(self) -> str:
        return "UnlockRequest(<redacted>)"


class RenewRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Renew an operator's certificate as local root."""

    name: str
    csr: bytes


class MigrateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Move the store to another engine."""

    to: str


class RecoverRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Make a cluster of this manager alone."""

    data_may_be_lost: bool
    """Somebody said that what only the lost managers held may go."""


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of progress."""

    step: str = ""
    detail: str = ""
    done: bool = False


class Admin(Protocol):
    """What the manager offers on its admin socket."""

    def new_unlock_key(self) -> str:
        """Return a fresh unlock key's text; nothing is stored."""
        ...

    async def init(self, request: InitRequest) -> dict[str, object]:
        """Found a cluster."""
        ...

    def join(self, request: JoinRequest) -> AsyncIterator[Step]:
        """Join a cluster, step by step."""
        ...

    def unlock(self, request: UnlockRequest) -> AsyncIterator[Step]:
        """Unlock, step by step."""
        ...

    async def status(self) -> dict[str, object]:
        """Return what this manager knows of itself, locked or not."""
        ...

    async def renew_operator(self, request: RenewRequest) -> dict[str, object]:
        """Renew an operator's certificate."""
        ...

    async def recover_space(self) -> dict[str, object]:
        """Free space in this manager's engine after its quota was reached."""
        ...

    async def lost_quorum(self) -> dict[str, object]:
        """Return what this manager can see of a lost quorum."""
        ...

    def recover_quorum(self, request: RecoverRequest) -> AsyncIterator[Step]:
        """Make a cluster of this manager alone, step by step."""
        ...

    def migrate(self, request: MigrateRequest) -> AsyncIterator[Step]:
        """Move the store to another engine, step by step."""
        ...


def routes(admin: Admin) -> APIRouter:
    """Return the routes of the admin socket."""
    router = APIRouter(prefix="/admin", tags=["admin"])

    @router.post("/unlock-key")
    async def new_unlock_key() -> Response:
        """Return a fresh unlock key, for the caller to save before anything is founded on it."""
        return json_response({"unlock_key": admin.new_unlock_key()})

    @router.post("/init")
    async def init(request: Request) -> Response:
        """Found a cluster with this manager as its first."""
        return json_response(await admin.init(await decoded(request, InitRequest)))

    @router.post("/join")
    async def join(request: Request) -> Response:
        """Join this manager to a cluster; answers line by line."""
        return _lines(admin.join(await decoded(request, JoinRequest)))

    @router.post("/unlock")
    async def unlock(request: Request) -> Response:
        """Unlock this manager; answers line by line until a majority is unlocked."""
        return _lines(admin.unlock(await decoded(request, UnlockRequest)))

    @router.get("/status")
    async def status() -> Response:
        """Show this manager's state."""
        return json_response(await admin.status())

    @router.post("/operator-renew")
    async def renew_operator(request: Request) -> Response:
        """Renew an operator's certificate as local root."""
        return json_response(await admin.renew_operator(await decoded(request, RenewRequest)))

    @router.post("/migrate")
    async def migrate(request: Request) -> Response:
        """Move a single manager's store from SQLite to etcd; answers line by line, and goes on
        when nobody reads them."""
        return _lines(admin.migrate(await decoded(request, MigrateRequest)))

    @router.get("/lost-quorum")
    async def lost_quorum() -> Response:
        """Show what this manager can see of a lost quorum, or refuse where there is one."""
        return json_response(await admin.lost_quorum())

    @router.post("/recover-quorum")
    async def recover_quorum(request: Request) -> Response:
        """Make a cluster of this manager alone, after the majority is lost for good; answers line
        by line, and goes on when nobody reads them."""
        return _lines(admin.recover_quorum(await decoded(request, RecoverRequest)))

    @router.post("/recover-space")
    async def recover_space() -> Response:
        """Free space in this manager's engine and accept writes again."""
        return json_response(await admin.recover_space())

    return router


def _lines(steps: AsyncIterator[Step]) -> Response:
    return StreamingResponse(_encoded(steps), media_type="application/x-ndjson")


async def _encoded(steps: AsyncIterator[Step]) -> AsyncIterator[bytes]:
    """Encode steps as lines; an error becomes the last line, since the status has been sent."""
    try:
        async for step in steps:
            yield msgspec.json.encode(step) + b"\n"
    except ClusterError as error:
        log.warning("admin.failed", code=error.code)
        yield msgspec.json.encode({"error": {"code": error.code, "message": error.message}}) + b"\n"
