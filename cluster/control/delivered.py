"""What receipts tell: which version may be where, since when, and whether it still opens anything.

Pure: reads a view and returns plain facts. A receipt says that a node may have had a version. What
a node reports afterwards (written, dropped) is shown and never subtracted: a node that was broken
into reports what it likes. Source: DESIGN 1 and 6.
"""

from collections.abc import Iterable
from typing import Final

from cluster.control.moments import moment
from cluster.control.requests import JSON
from cluster.protocol.errors import NodeNotFound, SecretNotFound
from cluster.protocol.ids import NodeId, SecretId, ServiceId, VersionNumber, is_id
from cluster.store.records import (
    NodeState,
    ReceiptRecord,
    SecretRecord,
    SecretVersion,
    VersionedRecord,
    VersionState,
)
from cluster.store.view import View

LIVE: Final = frozenset({VersionState.PRIMARY, VersionState.ACTIVE})
"""States in which a version is in use: whoever read it can use it."""

DESTROYED: Final = "destroyed"
REMOVED: Final = "removed"
"""Of a version: its secret is gone; of a node: its record is gone as well."""
EVICTED: Final = "evicted"


def find_secret(view: View, name: str) -> SecretId:
    """Return the secret of a name or id, also one that was removed and has receipts.

    A name belongs to the secret that has it now. Raises SecretNotFound.
    """
    stored = view.secret_by_name(name)
    if stored is not None and stored.record.name == name:
        return SecretId(stored.record.id)
    receipts = (one.record for one in view.receipts.values() if not one.record.config)
    if is_id(name) and any(not r.record.config for r in view.receipts_of_secret(SecretId(name))):
        return SecretId(name)
    removed = [
        receipt
        for receipt in receipts
        if receipt.secret_name == name and view.secrets.get(receipt.secret_id) is None
    ]
    if not removed:
        raise SecretNotFound(f"there is no secret {name!r}, and no record of one that was issued")
    return max(removed, key=lambda receipt: (receipt.since, receipt.id)).secret_id


def find_node(view: View, name: str) -> NodeId:
    """Return the node of a name or id, also one that was evicted, however long ago.

    Among several that had the name: the present one, else the one evicted last. Raises
    NodeNotFound.
    """
    stored = view.node_by_name(name)
    if stored is not None:
        return NodeId(stored.record.id)
    if is_id(name) and (view.nodes.get(name) or view.receipts_of_node(NodeId(name))):
        return NodeId(name)
    wanted = name.lower()
    evicted = [n.record for n in view.nodes.values() if n.record.name.lower() == wanted]
    if evicted:
        return NodeId(max(evicted, key=lambda node: (node.revoked_at or 0.0, node.id)).id)
    gone = [r.record for r in view.receipts.values() if r.record.node_name.lower() == wanted]
    if gone:
        return max(gone, key=lambda receipt: (receipt.since, receipt.id)).node_id
    raise NodeNotFound(f"there is no node {name[:64]!r}, and no record of what it was issued")


def namesakes(view: View, node_id: NodeId, name: str) -> list[str]:
    """Return the ids of other nodes that have or had a node's name and are still on record."""
    return sorted(
        stored.record.id
        for stored in view.nodes.values()
        if stored.record.name.lower() == name.lower() and stored.record.id != node_id
    )


def version_state(secret: VersionedRecord | None, number: VersionNumber) -> str:
    """Return what became of a version, whether its secret still lists it or not."""
    if secret is None:
        return REMOVED
    version = version_of(secret, number)
    if version is None or version.destroyed:
        return DESTROYED
    return version.state.value


def version_of(secret: VersionedRecord, number: VersionNumber) -> SecretVersion | None:
    """Return a version's metadata, or None where it is not listed any more."""
    return next((version for version in secret.versions if version.number == number), None)


def is_live(secret: VersionedRecord | None, number: VersionNumber) -> bool:
    """Return whether a version is in use."""
    version = None if secret is None else version_of(secret, number)
    return version is not None and version.state in LIVE


def node_state(view: View, node_id: NodeId) -> str:
    """Return ready, down, unknown, evicted, or removed where not even the record is left."""
    node = view.nodes.get(node_id)
    if node is None:
        return REMOVED
    if node.record.revoked_at is not None:
        return EVICTED
    status = view.node_statuses.get(node_id)
    return (status.record.state if status is not None else NodeState.UNKNOWN).value


def held_versions(view: View, node_id: NodeId) -> dict[SecretId, frozenset[VersionNumber]]:
    """Return every version that a node may ever have had, by secret."""
    held: dict[SecretId, set[VersionNumber]] = {}
    for stored in view.receipts_of_node(node_id):
        held.setdefault(stored.record.secret_id, set()).add(stored.record.version)
    return {secret_id: frozenset(numbers) for secret_id, numbers in held.items()}


def must_rotate(secret: SecretRecord) -> str:
    """Return why a secret must be rotated, or nothing: a live version was on an evicted node."""
    exposed = [v for v in secret.versions if v.state in LIVE and v.exposed_at is not None]
    if not exposed:
        return ""
    nodes = ", ".join(sorted({version.exposed_by for version in exposed}))
    if any(version.state is VersionState.PRIMARY for version in exposed):
        return f"must be rotated: node {nodes} was evicted"
    numbers = ", ".join(str(version.number) for version in exposed)
    return f"version {numbers} must be retired: node {nodes} was evicted"


def receipts_shown(view: View, receipts: Iterable[ReceiptRecord]) -> list[dict[str, JSON]]:
    """Return receipts as an operator sees them: newest versions first, then by node and service."""
    states: dict[NodeId, str] = {}
    shown = []
    for receipt in receipts:
        if receipt.node_id not in states:
            states[receipt.node_id] = node_state(view, receipt.node_id)
        shown.append(_shown(view, receipt, states[receipt.node_id]))
    shown.sort(
        key=lambda row: (str(row["secret"]), -_number(row), str(row["node"]), str(row["service"]))
    )
    return shown


def _shown(view: View, receipt: ReceiptRecord, state: str) -> dict[str, JSON]:
    stored = view.source(receipt.secret_id)
    secret = stored.record if stored is not None else None
    return {
        "secret": receipt.secret_name,
        "config": receipt.config,
        "secret_id": receipt.secret_id,
        "version": receipt.version,
        "version_state": version_state(secret, receipt.version),
        "live": is_live(secret, receipt.version),
        "node": receipt.node_name,
        "node_id": receipt.node_id,
        "node_state": state,
        "service": receipt.service_name,
        "service_gone": view.services.get(ServiceId(receipt.service_id)) is None,
        "since": moment(receipt.since),
        "issued_at": moment(receipt.issued_at),
        "acked_at": moment(receipt.acked_at),
        "dropped_at": moment(receipt.dropped_at),
        "held": receipt.dropped_at is None,
    }


def _number(row: dict[str, JSON]) -> int:
    number = row["version"]
    return number if isinstance(number, int) else 0
