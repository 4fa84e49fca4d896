"""A node is compromised: evict it, mark what it held, rotate what rotates by itself, report.

Theory: eviction is one transaction, and a receipt's transaction requires the node's record as it
was, so behind the eviction the node's receipts are complete. The marks follow from receipts and
versions alone, and stay with the versions: a rotation ends the demand, a rollback to a marked
version brings it back. Nothing here remembers how far it came; doing it again does what is left.
It opens no value. Source: DESIGN 1.5 and 6.
"""

import hashlib
from collections.abc import Collection, Iterable
from typing import Final, Protocol

import msgspec
import structlog

from cluster.control.delivered import find_node, held_versions, is_live, node_state, version_of
from cluster.control.moments import moment
from cluster.control.nodes import Nodes
from cluster.control.policy import Action, Principal, Resource, authorize
from cluster.control.requests import JSON, Answer, RequestContext, Requests
from cluster.control.versions import pinned_versions
from cluster.protocol.errors import ClusterError, NodeNotFound
from cluster.protocol.ids import ID_SIZE, NodeId, SecretId, VersionNumber, format_id
from cluster.store.records import Kind, SecretRecord
from cluster.store.steps import Replace, Write
from cluster.store.view import Stored, View

log = structlog.get_logger(__name__)

SECRETS_PER_WRITE: Final = 30
ROTATING: Final = "rotating"
MUST_ROTATE: Final = "must be rotated"
NOTHING: Final = "nothing to do"


class ScheduledRotations(Protocol):
    """Starts the rotation of a secret that knows how to make its next value, or joins the one
    under way."""

    async def start(self, context: RequestContext, name: str) -> Answer:
        """Start a rotation by the secret's own schedule."""
        ...


class Evictions:
    """Evicts nodes together with what they held."""

    def __init__(
        self, requests: Requests, nodes: Nodes, scheduled: ScheduledRotations | None = None
    ) -> None:
        """`scheduled`: None where no secret rotates by itself; all are marked for the operator."""
        self._requests = requests
        self._nodes = nodes
        self._scheduled = scheduled

    async def evict(self, context: RequestContext, name: str, *, rotate: bool) -> Answer:
        """Evict a node and, with `rotate`, see to every live version it held; return the report.

        On a node that was evicted before it does what was left undone. Raises NodeNotFound, and
        what the store raises: whatever was committed by then stays, and asking again goes on.
        """
        node_id = await self._evicted(context, name)
        report: list[dict[str, JSON]] = []
        if rotate:
            # Receipts of other managers, committed before the eviction, lie before the barrier.
            await self._requests.store.barrier()
            held = held_versions(self._requests.store.view, node_id)
            await self._mark(context.principal, node_id, held)
            failed = await self._start(context, held)
            report = _report(self._requests.store.view, held, failed)
        return Answer(200, self._body(node_id, report))

    async def _evicted(self, context: RequestContext, name: str) -> NodeId:
        """Return the id of the node, which is evicted by now."""
        view = self._requests.store.view
        resource = Resource(Kind.NODE.value, name[:64])
        self._requests.check(context.principal, Action.NODE_REMOVE, resource)
        node_id = find_node(view, name)
        if node_state(view, node_id) in _GONE:
            return node_id
        try:
            await self._nodes.remove(context, node_id)
        except NodeNotFound:
            # Somebody else evicted it meanwhile, which is as good.
            log.info("node.evicted_meanwhile", node_id=node_id)
        return node_id

    async def _mark(
        self,
        principal: Principal,
        node_id: NodeId,
        held: dict[SecretId, frozenset[VersionNumber]],
    ) -> None:
        """Mark every version that the node held and that may still be issued or brought back."""
        store = self._requests.store
        name = _name_of(store.view, node_id)

        def decide(view: View) -> Write | None:
            unmarked = list(_unmarked(view, held))[:SECRETS_PER_WRITE]
            if not unmarked:
                return None
            now = self._requests.clock.now()
            resource = Resource(Kind.NODE.value, name)
            entry = authorize(principal, Action.SECRET_EXPOSE, resource, now)
            names = " ".join(stored.record.name for stored in unmarked)
            detail = f"operation {operation_id(node_id)}: {names}"
            steps = tuple(
                Replace(s, _marked(s.record, held[SecretId(s.record.id)], name, now.timestamp()))
                for s in unmarked
            )
            return Write(steps, (msgspec.structs.replace(entry, detail=detail),))

        while any(True for _ in _unmarked(store.view, held)):
            await store.update(decide)

    async def _start(
        self,
        context: RequestContext,
        held: dict[SecretId, frozenset[VersionNumber]],
    ) -> dict[SecretId, str]:
        """Start what rotates by itself; return why those that should have started did not.

        One that is under way is joined, so asking again, by whomever, starts nothing twice.
        """
        failed: dict[SecretId, str] = {}
        if self._scheduled is None:
            return failed
        view = self._requests.store.view
        for secret_id in sorted(held):
            secret = _scheduled_primary(view, secret_id, held[secret_id])
            if secret is None:
                continue
            try:
                await self._scheduled.start(_context(context, secret), secret.name)
            except ClusterError as error:
                failed[secret_id] = error.message
        return failed

    def _body(self, node_id: NodeId, report: list[dict[str, JSON]]) -> dict[str, JSON]:
        view = self._requests.store.view
        stored = view.nodes.get(node_id)
        receipts = view.receipts_of_node(node_id)
        return {
            "id": node_id,
            "name": _name_of(view, node_id),
            "state": node_state(view, node_id),
            "evicted_at": moment(stored.record.revoked_at) if stored is not None else None,
            "operation": operation_id(node_id),
            "held": sum(one.record.dropped_at is None for one in receipts),
            "rotating": _count(report, ROTATING),
            "must_rotate": _count(report, MUST_ROTATE),
            "settled": _count(report, NOTHING),
            "secrets": report,
        }


_GONE: Final = frozenset({"evicted", "removed"})


def operation_id(node_id: NodeId) -> str:
    """Return the id of the one operation that an eviction is, however often it is taken up."""
    return _derived("evict", node_id)


def _context(context: RequestContext, secret: SecretRecord) -> RequestContext:
    """Return the context of one rotation: a resent eviction asks for the very same."""
    request_id = _derived("evict-rotate", context.request_id, secret.id)
    return RequestContext(context.principal, request_id, context.digest)


def _derived(*parts: str) -> str:
    return format_id(hashlib.sha256("/".join(parts).encode()).digest()[:ID_SIZE])


def _name_of(view: View, node_id: NodeId) -> str:
    stored = view.nodes.get(node_id)
    if stored is not None:
        return stored.record.name
    receipts = view.receipts_of_node(node_id)
    return receipts[0].record.node_name if receipts else node_id


def _unmarked(
    view: View, held: dict[SecretId, frozenset[VersionNumber]]
) -> Iterable[Stored[SecretRecord]]:
    for secret_id in sorted(held):
        stored = view.secrets.get(secret_id)
        if stored is not None and any(_lacks_mark(stored.record, n) for n in held[secret_id]):
            yield stored


def _lacks_mark(secret: SecretRecord, number: VersionNumber) -> bool:
    version = version_of(secret, number)
    return version is not None and not version.destroyed and version.exposed_at is None


def _marked(
    secret: SecretRecord, numbers: Collection[VersionNumber], node: str, now_s: float
) -> SecretRecord:
    versions = tuple(
        msgspec.structs.replace(version, exposed_at=now_s, exposed_by=node)
        if version.number in numbers and _lacks_mark(secret, version.number)
        else version
        for version in secret.versions
    )
    return msgspec.structs.replace(secret, versions=versions, updated_at=now_s)


def _scheduled_primary(
    view: View, secret_id: SecretId, numbers: Collection[VersionNumber]
) -> SecretRecord | None:
    """Return the secret if the node held its primary version and it rotates by itself."""
    stored = view.secrets.get(secret_id)
    if stored is None or stored.record.schedule is None:
        return None
    return stored.record if stored.record.primary.number in numbers else None


def _report(
    view: View,
    held: dict[SecretId, frozenset[VersionNumber]],
    failed: dict[SecretId, str],
) -> list[dict[str, JSON]]:
    """Return what became of each secret that still exists, by name."""
    rows = []
    for secret_id, numbers in held.items():
        stored = view.secrets.get(secret_id)
        if stored is not None:
            services = [one.record for one in view.services_referring_to(secret_id)]
            pinned = pinned_versions(secret_id, services)
            rows.append(_outcome(stored.record, numbers, pinned, failed.get(secret_id)))
    return sorted(rows, key=lambda row: str(row["secret"]))


def _outcome(
    secret: SecretRecord,
    numbers: Collection[VersionNumber],
    pinned: frozenset[int],
    failure: str | None,
) -> dict[str, JSON]:
    live = sorted(number for number in numbers if is_live(secret, number))
    primary = secret.primary.number
    detail = ""
    if not live:
        outcome = NOTHING
    elif primary in live and (secret.schedule is None or failure is not None):
        outcome = MUST_ROTATE
        detail = failure or "run `strongroom secret rotate` with a new value"
    elif primary in live:
        outcome = ROTATING
    elif pinned.isdisjoint(live):
        outcome, detail = NOTHING, "rotated; the version before is retired when its time is over"
    else:
        outcome, detail = MUST_ROTATE, "rotated, but a spec still names the version before"
    return {"secret": secret.name, "versions": live, "outcome": outcome, "detail": detail}


def _count(report: Iterable[dict[str, JSON]], outcome: str) -> int:
    return sum(row["outcome"] == outcome for row in report)
