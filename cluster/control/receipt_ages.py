"""How long receipts are kept: while their version is on record, and a while longer. Pure.

Receipts answer who may have had a secret, so they outlive nodes and services. A version leaves the
record when its secret is removed, or long after its value was destroyed; from then on its receipts
have an end, else a secret that rotates every hour would fill the store.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from cluster.protocol.ids import SecretId, VersionNumber
from cluster.store.records import ReceiptRecord
from cluster.store.steps import Remove, Replace, Step
from cluster.store.view import Stored, View

KEPT_S: Final = 90 * 86_400.0
"""After its version left the record, a receipt is kept for so long."""


def unneeded_receipts(view: View, now_s: float) -> Iterator[Step]:
    """Yield the steps that start the end of receipts, and those that end them."""
    known: dict[SecretId, frozenset[VersionNumber]] = {
        SecretId(stored.record.id): frozenset(v.number for v in stored.record.versions)
        for stored in (*view.secrets.values(), *view.configs.values())
    }
    for stored in view.receipts.values():
        receipt = stored.record
        if receipt.version not in known.get(receipt.secret_id, ()):
            yield from _ending(stored, now_s)


def _ending(stored: Stored[ReceiptRecord], now_s: float) -> Iterator[Step]:
    orphaned_at = stored.record.orphaned_at
    if orphaned_at is None:
        yield Replace(stored, msgspec.structs.replace(stored.record, orphaned_at=now_s))
    elif orphaned_at + KEPT_S <= now_s:
        yield Remove(stored)
