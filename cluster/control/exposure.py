"""Who has, or may have had, what: by secret and by node. Answered from receipts alone.

Owns the two questions and who may ask them. It changes nothing, and no answer has a field that
could hold a value. Source: DESIGN 1.5.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from cluster.control.delivered import (
    find_node,
    find_secret,
    is_live,
    must_rotate,
    namesakes,
    node_state,
    receipts_shown,
    version_state,
)
from cluster.control.moments import moment
from cluster.control.policy import Action, Principal, Resource
from cluster.control.requests import JSON, Requests
from cluster.control.secrets import secret_resource
from cluster.protocol.ids import NodeId, VersionNumber
from cluster.store.records import Kind, ReceiptRecord, SecretRecord
from cluster.store.view import View

ROWS: Final = 10_000
"""Most rows of an answer, the newest versions first; the counts are of all."""


class Exposure:
    """What operators may ask about deliveries."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def where(self, principal: Principal, name: str, version: int | None = None) -> dict[str, JSON]:
        """Return where a secret's versions are or were: each receipt, and counts by version.

        `name` may be that of a removed secret, or an id. Raises SecretNotFound.
        """
        view = self._requests.store.view
        self._requests.check(principal, Action.SECRET_WHERE, secret_resource(view, name))
        secret_id = find_secret(view, name)
        stored = view.secrets.get(secret_id)
        secret = stored.record if stored is not None else None
        receipts = [
            one.record
            for one in view.receipts_of_secret(secret_id)
            if version is None or one.record.version == version
        ]
        return {
            "id": secret_id,
            "name": secret.name if secret is not None else receipts_name(receipts, name),
            "removed": secret is None,
            "must_rotate": must_rotate(secret) if secret is not None else "",
            "versions": _counted(secret, receipts),
            "receipts": receipts_shown(view, _newest(receipts)),
            "left_out": max(0, len(receipts) - ROWS),
        }

    def of_node(self, principal: Principal, name: str) -> dict[str, JSON]:
        """Return everything that a node may ever have received, and what of it is in use.

        `name` may be that of an evicted node, or an id. Raises NodeNotFound.
        """
        resource = Resource(Kind.NODE.value, name[:64])
        self._requests.check(principal, Action.NODE_EXPOSURE, resource)
        return node_exposure(self._requests.store.view, find_node(self._requests.store.view, name))


def node_exposure(view: View, node_id: NodeId) -> dict[str, JSON]:
    """Return what a node may ever have received."""
    receipts = [one.record for one in view.receipts_of_node(node_id)]
    stored = view.nodes.get(node_id)
    if stored is not None:
        name, evicted_at = stored.record.name, stored.record.revoked_at
    else:
        name, evicted_at = next((one.node_name for one in receipts), node_id), None
    versions = {(receipt.secret_id, receipt.version) for receipt in receipts}
    return {
        "id": node_id,
        "name": name,
        "state": node_state(view, node_id),
        "evicted_at": moment(evicted_at),
        "versions": len(versions),
        "live": sum(_live(view, receipt) for receipt in _one_each(receipts)),
        "held": sum(receipt.dropped_at is None for receipt in receipts),
        "same_name": namesakes(view, node_id, name),
        "receipts": receipts_shown(view, receipts),
    }


def receipts_name(receipts: Iterable[ReceiptRecord], otherwise: str) -> str:
    """Return the name that a removed secret had."""
    return next((receipt.secret_name for receipt in receipts), otherwise)


def _newest(receipts: list[ReceiptRecord]) -> list[ReceiptRecord]:
    if len(receipts) <= ROWS:
        return receipts
    return sorted(receipts, key=lambda receipt: (-receipt.version, receipt.id))[:ROWS]


def _one_each(receipts: Iterable[ReceiptRecord]) -> Iterable[ReceiptRecord]:
    """Return one receipt for each version, whatever the number of services."""
    return {(receipt.secret_id, receipt.version): receipt for receipt in receipts}.values()


def _live(view: View, receipt: ReceiptRecord) -> bool:
    stored = view.source(receipt.secret_id)
    return is_live(stored.record if stored is not None else None, receipt.version)


def _counted(
    secret: SecretRecord | None, receipts: Iterable[ReceiptRecord]
) -> list[dict[str, JSON]]:
    """Return a row for each version with receipts, the newest first."""
    issued: Counter[VersionNumber] = Counter()
    acked: Counter[VersionNumber] = Counter()
    held: Counter[VersionNumber] = Counter()
    for receipt in receipts:
        issued[receipt.version] += 1
        acked[receipt.version] += receipt.acked_at is not None
        held[receipt.version] += receipt.dropped_at is None
    return [
        {
            "version": number,
            "state": version_state(secret, number),
            "live": is_live(secret, number),
            "issued": issued[number],
            "acknowledged": acked[number],
            "held": held[number],
        }
        for number in sorted(issued, reverse=True)
    ]
