"""Issuing one secret to a node that asks for it by its certificate (`POST /v1/issue`).

The same rules as a session's push: only what is assigned, the receipt first, a barrier, and one
more decision from the view at that revision. "Not yours" and "not there" are one answer.
"""

from dataclasses import dataclass

import msgspec

from cluster.dispatcher.assignments import assignments_of
from cluster.dispatcher.receipts import Receipts
from cluster.dispatcher.sessions import DECISIONS, ViewRecords
from cluster.protocol.errors import PermissionDenied, Unavailable
from cluster.protocol.ids import NodeId, SecretId, VersionNumber
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.wire import ServiceAssignment
from cluster.store.sealed_store import SealedStore


@dataclass(frozen=True, slots=True)
class Issued:
    """One value on its way to a node."""

    version: VersionNumber
    value: SecretBytes


@dataclass(frozen=True, slots=True)
class Issue:
    """Issues single secrets."""

    store: SealedStore
    receipts: Receipts

    async def issue(self, node_id: NodeId, service: str, secret: str) -> Issued:
        """Return the version of `secret` that `service` has on this node.

        Raises PermissionDenied for everything that is not assigned, and Unavailable when the
        receipt cannot be written.
        """
        for _ in range(DECISIONS):
            await self.receipts.ensure(node_id, (self._find(node_id, service, secret),))
            await self.store.barrier()
            found = self._find(node_id, service, secret)
            # A rotation may have come in between: what is assigned now has no receipt yet.
            if not self.receipts.missing(node_id, (found,)):
                (file,) = found.files
                version = VersionNumber(file.version)
                return Issued(version, self.store.open_value(SecretId(file.secret_id), version))
        raise Unavailable("the records keep changing; ask again")

    def _find(self, node_id: NodeId, service: str, secret: str) -> ServiceAssignment:
        """Return the service's assignment narrowed to the one file asked for."""
        node = self.store.view.nodes.get(node_id)
        if node is None or node.record.revoked_at is not None:
            raise PermissionDenied
        for assignment in assignments_of(ViewRecords(self.store.view), node_id).values():
            if assignment.name == service:
                for file in assignment.files:
                    if secret in {file.name, file.target}:
                        return msgspec.structs.replace(assignment, files=(file,))
        raise PermissionDenied
