"""Signed checkpoints of the audit: making one, and comparing the store with one.

What no chain can show by itself, that the newest links of all chains were cut off together with
what they told of, shows against a statement that was kept elsewhere. Owns what a manager states and
what a store must still hold of it; the file and whom it is believed from are
`pki.audit_statement`'s. Source: ADR 0011.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from cluster.control.audit_query import AuditQuery, verdict
from cluster.control.issuing import trust_bundle
from cluster.control.moments import moment
from cluster.control.policy import Principal
from cluster.control.requests import JSON
from cluster.pki.audit_statement import AuditStatement, StatedHead, proven
from cluster.protocol.errors import AuditChainBroken, InvalidRequest, Unavailable
from cluster.protocol.ids import ManagerId
from cluster.store.audit_chain import open_link
from cluster.store.records import encode
from cluster.store.sealed_store import SealedStore
from cluster.store.start_check import AUDIT, Tale, checkpoint_of
from cluster.system import Clock

Sign = Callable[[AuditStatement], bytes]
"""Returns the file of a statement, signed with this manager's key."""


@dataclass(frozen=True, slots=True)
class AuditStatements:
    """What operators may ask about the audit that holds outside the cluster too."""

    audit: AuditQuery
    store: SealedStore
    clock: Clock
    manager_id: ManagerId
    sign: Sign

    async def make(self, principal: Principal) -> bytes:
        """Return a signed checkpoint of all chains, behind all writes acknowledged before.

        Every chain is recomputed first: what contradicts itself is signed by nobody. Raises
        PermissionDenied, AuditChainBroken, Unavailable if the engine cannot be read.
        """
        tale = await self.audit.tale(principal, "checkpoint")
        if tale.wrong:
            raise AuditChainBroken(
                "no checkpoint is signed: the store does not hold what its audit tells; run "
                "`strongroom audit verify`"
            )
        return self.sign(self._statement(tale))

    async def compare(self, principal: Principal, file: bytes) -> dict[str, JSON]:
        """Verify the audit as `AuditQuery.verify` does, and that the store still holds all that a
        signed checkpoint states; return the verdict on both.

        Raises what `make` and `pki.audit_statement.proven` raise, and InvalidRequest for another
        cluster's checkpoint.
        """
        tale = await self.audit.tale(principal, "verify against a checkpoint")
        cluster = self.store.cluster
        bundle = trust_bundle(self.store.view)
        statement = proven(file, bundle.control, cluster.trust_domain)
        if statement.cluster_id != cluster.cluster_id:
            raise InvalidRequest("the checkpoint is signed by a manager of another cluster")
        forgotten = [h.chain for h in statement.chains if _is_forgotten(h, statement, tale)]
        lost = [
            what
            for head in statement.chains
            if head.chain not in forgotten
            if (what := await self._lost(head, tale)) is not None
        ]
        if lost:
            # Links are deleted only behind a committed checkpoint, so a barrier shows it.
            await self.store.barrier()
            if checkpoint_of(self.store) != tale.checkpoint:
                raise Unavailable("the audit was trimmed while it was read; ask again")
        tale.wrong += [(AUDIT, what) for what in (*self._gone_back(statement, tale), *lost)]
        return verdict(tale) | {"compared": _shown(statement, forgotten)}

    def _statement(self, tale: Tale) -> AuditStatement:
        cluster = self.store.cluster
        return AuditStatement(
            cluster_id=cluster.cluster_id,
            trust_domain=cluster.trust_domain,
            manager_id=self.manager_id,
            at=self.clock.now().timestamp(),
            incarnation_counter=cluster.incarnation_counter,
            incarnation_unique=cluster.incarnation_unique,
            revision=tale.revision,
            checkpoint=0 if tale.checkpoint is None else tale.checkpoint.number,
            chains=tuple(
                StatedHead(stream, head.sequence, head.digest.hex())
                for stream, head in sorted(tale.heads.items())
            ),
        )

    def _gone_back(self, statement: AuditStatement, tale: Tale) -> list[str]:
        """Return in which way the store is at an earlier point than the statement."""
        present = self.store.incarnation
        number = 0 if tale.checkpoint is None else tale.checkpoint.number
        found = []
        if not present.supersedes(statement.incarnation):
            found.append("the store lives an older life than the signed checkpoint states")
        elif present == statement.incarnation and tale.revision < statement.revision:
            found.append(
                f"the store went back: it is at revision {tale.revision}, the signed checkpoint "
                f"at {statement.revision}"
            )
        if number < statement.checkpoint:
            found.append("a trim that the signed checkpoint states is undone: the store went back")
        return found

    async def _lost(self, head: StatedHead, tale: Tale) -> str | None:
        """Return what of a stated chain is not in the store, or None."""
        trimmed = {} if tale.checkpoint is None else {h.stream: h for h in tale.checkpoint.heads}
        behind = trimmed.get(head.chain)
        last = tale.heads[head.chain].sequence if head.chain in tale.heads else 0
        if behind is not None:
            last = max(last, behind.sequence)
        if last < head.last_link:
            gone = f"links {last + 1} to {head.last_link}" if last else "all links"
            return f"{gone} of {head.chain} are missing, which the signed checkpoint states"
        if behind is not None and head.last_link < behind.sequence:
            return None  # The trim verified it, and its digest left the store with it.
        if behind is not None and head.last_link == behind.sequence:
            digest = behind.digest.hex()
        else:
            digest = await self._digest(head)
        if digest != head.digest:
            return f"link {head.last_link} of {head.chain} is not the one that was stated"
        return None

    async def _digest(self, head: StatedHead) -> str:
        """Return the digest of a link that lies in the store, empty if it cannot be read."""
        entry = await self.store.engine.read(
            self.store.keyring.stream_key(head.chain, head.last_link)
        )
        if entry is None:
            return ""
        try:
            link = open_link(self.store.keyring, head.chain, entry)
        except AuditChainBroken:
            return ""
        return sha256(encode(link)).hexdigest()


def _is_forgotten(head: StatedHead, statement: AuditStatement, tale: Tale) -> bool:
    """Return whether a chain may have ended and left the store since.

    Only a trim takes a chain out, at the earliest the first after the statement.
    """
    if tale.checkpoint is None or head.chain in tale.heads:
        return False
    known = {trimmed.stream for trimmed in tale.checkpoint.heads}
    return head.chain not in known and tale.checkpoint.number > statement.checkpoint


def _shown(statement: AuditStatement, forgotten: list[str]) -> dict[str, JSON]:
    incarnation = statement.incarnation
    return {
        "at": moment(statement.at),
        "manager_id": statement.manager_id,
        "revision": f"{incarnation.counter}.{incarnation.unique}.{statement.revision}",
        "chains": len(statement.chains),
        "forgotten": list(forgotten),
    }
