"""Issuing one secret to a node that asks for it by its certificate (`POST /v1/issue`).

The same rules as a session's push: only what is assigned, the receipt first, a barrier, and one
more decision from the view at that revision; the value leaves sealed to the caller's key. "Not
yours" and "not there" are one answer.
"""

from dataclasses import dataclass

import msgspec

from cluster.dispatcher.assignments import assignments_of
from cluster.dispatcher.receipts import Receipts
from cluster.dispatcher.sealed_values import sealed_values
from cluster.dispatcher.sessions import DECISIONS, ViewRecords
from cluster.pki.node_envelope import Recipient
from cluster.protocol import wire
from cluster.protocol.errors import PermissionDenied, Unavailable
from cluster.protocol.ids import NodeId, SecretId, VersionNumber
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.wire import ServiceAssignment
from cluster.store.sealed_store import SealedStore
from cluster.system import Entropy


@dataclass(frozen=True, slots=True)
class Issued:
    """One value on its way to a node, sealed to it."""

    version: VersionNumber
    values: wire.Values


@dataclass(frozen=True, slots=True)
class Issue:
    """Issues single secrets."""

    store: SealedStore
    receipts: Receipts
    entropy: Entropy

    async def issue(
        self, node_id: NodeId, service: str, secret: str, recipient: Recipient
    ) -> Issued:
        """Return the version of `secret` that `service` has on this node.

        Raises PermissionDenied for everything that is not assigned, and Unavailable when the
        receipt cannot be written.
        """
        for _ in range(DECISIONS):
            begun = self.store.moment()
            await self.receipts.ensure(node_id, (self._find(node_id, service, secret),))
            await self.store.barrier(since=begun)
            found = self._find(node_id, service, secret)
            # A rotation may have come in between: what is assigned now has no receipt yet.
            if not self.receipts.missing(node_id, (found,)):
                (file,) = found.files
                key = wire.VersionKey(file.secret_id, file.version)
                (values,) = sealed_values((key,), self._open_value, recipient, self.entropy)
                return Issued(VersionNumber(file.version), values)
        raise Unavailable("the records keep changing; ask again")

    def _open_value(self, key: wire.VersionKey) -> SecretBytes:
        return self.store.open_value(SecretId(key.secret_id), VersionNumber(key.version))

    def _find(self, node_id: NodeId, service: str, secret: str) -> ServiceAssignment:
        """Return the service's assignment narrowed to the one file asked for."""
        node = self.store.view.nodes.get(node_id)
        if node is None or node.record.revoked_at is not None:
            raise PermissionDenied
        for assignment in assignments_of(ViewRecords(self.store.view), node_id).values():
            if assignment.name == service:
                # Where both kinds have the name, it is the secret's.
                for file in sorted(assignment.files, key=lambda file: file.config):
                    if secret in {file.name, file.target}:
                        return msgspec.structs.replace(assignment, files=(file,))
        raise PermissionDenied
