"""The first write of a store's new life: in a copy that nobody serves from yet.

Revisions count anew in a copy, so the incarnation is raised above them, which agents and commands
follow and never go back from. Owns the check that the copy's audit tells what is there, and the
steps that every new life takes; why it begins, and what else changes, is the caller's. Source:
DESIGN 3.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from cluster.engine.seam import Engine
from cluster.protocol.errors import IntegrityError
from cluster.protocol.ids import ID_SIZE, Incarnation, ManagerId, format_id
from cluster.seal.keyring import Keyring
from cluster.seal.unlock import SealFileContents
from cluster.store.records import CHECKPOINT_ID, CLUSTER_ID
from cluster.store.sealed_store import SealedStore
from cluster.store.start_check import read_tale
from cluster.store.steps import Replace, Step, Write
from cluster.store.view import View
from cluster.system import Clock, Entropy


@dataclass(frozen=True, slots=True)
class NewLife:
    """A new life of the store of one manager."""

    contents: SealFileContents
    peer_address: str
    """host:port where this manager's engine member is reached from now on."""
    clock: Clock
    entropy: Entropy

    async def begin(
        self, engine: Engine, keyring: Keyring, write: Callable[[View, list[Step]], Write]
    ) -> Incarnation:
        """Record it in a copy and return the incarnation.

        `write` is given the steps that every new life takes. Raises IntegrityError where the audit
        does not tell what is there.
        """
        store = await SealedStore.open(
            engine,
            keyring,
            root_key=self.contents.root_key,
            manager_id=ManagerId(self.contents.manager_id),
            boot=format_id(self.entropy.token(ID_SIZE)),
            clock=self.clock,
            entropy=self.entropy,
        )
        try:
            faults = [*store.view.faults, *(await read_tale(store)).wrong]
            if faults:
                raise IntegrityError(
                    f"stored data of kind {faults[0][0]} failed their integrity check; "
                    "see docs/how-to/integrity.md"
                )
            await store.update(lambda view: write(view, self._steps(view)))
            await store.barrier()
            return store.incarnation
        finally:
            await store.close()

    def _steps(self, view: View) -> list[Step]:
        now = self.clock.now()
        cluster = view.cluster.rows[CLUSTER_ID]
        manager = view.managers.rows[self.contents.manager_id]
        life = msgspec.structs.replace(
            cluster.record,
            incarnation_counter=max(cluster.record.incarnation_counter + 1, int(now.timestamp())),
            incarnation_unique=format_id(self.entropy.token(ID_SIZE)),
        )
        here = msgspec.structs.replace(manager.record, peer_address=self.peer_address)
        steps: list[Step] = [Replace(cluster, life), Replace(manager, here)]
        checkpoint = view.audit_checkpoints.get(CHECKPOINT_ID)
        if checkpoint is not None:
            # Revisions begin again, and every link that was copied lies behind the checkpoint.
            steps.append(
                Replace(checkpoint, msgspec.structs.replace(checkpoint.record, revision=0))
            )
        return steps
