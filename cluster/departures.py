"""Taking removed managers out of the engine, and telling whether one may go.

The decision is a record (`control.manager_removal`); every manager that stays watches for it, and
whoever holds the right to change the membership carries it out. So a removal goes on when the
manager that was asked dies, is the one that goes, or has to wait: etcd refuses to take a running
member out until the others are connected. Until its member is out, a manager that is to go still
votes and serves, so a removal never costs the quorum. Source: DESIGN 3.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from cluster.control.manager_removal import ManagerRemoval, leaving_managers
from cluster.control.policy import Principal
from cluster.control.requests import Answer, RequestContext
from cluster.duties import ALIVE_PREFIX
from cluster.engine.etcd_membership import EtcdMembership
from cluster.engine.seam import Engine
from cluster.membership import MEMBERSHIP_DUTY
from cluster.protocol.errors import ClusterError, IntegrityError
from cluster.protocol.ids import ManagerId
from cluster.store.records import Kind, ManagerRecord, ManagerState
from cluster.store.sealed_store import SealedStore
from cluster.store.view import ViewChange

log = structlog.get_logger(__name__)

DUTY_TTL_S: Final = 10.0
LOOK_S: Final = 5.0
"""How long a wait for work trusts that it is woken."""
RETRY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Departures:
    """The way out of the managers of one cluster, as one of them sees it."""

    store: SealedStore
    engine: Engine
    membership: EtcdMembership | None
    """None on SQLite, whose one manager cannot go."""
    removal: ManagerRemoval
    own: Principal
    manager_id: ManagerId

    async def remove(self, context: RequestContext, name: str) -> Answer:
        """Decide that a manager goes; `run` takes it out. Raises NotFound, Conflict."""
        self.removal.check(context.principal, name)
        return await self.removal.begin(context, name, await self._alive())

    async def run(self) -> None:
        """Take out whoever is to go, for ever."""
        changed = asyncio.Event()
        unsubscribe = self.store.view.subscribe(_on_manager(changed.set))
        try:
            while True:
                try:
                    await self._take_out_all()
                except IntegrityError:
                    raise
                except ClusterError as error:
                    log.warning("manager.removal_waits", code=error.code)
                    await asyncio.sleep(RETRY_S)
                    continue
                await _wait(changed)
        finally:
            unsubscribe()

    async def _take_out_all(self) -> None:
        """Take out every other manager that is to go; one that cannot go yet stops no other."""
        if self.membership is None or not self._work():
            return
        failure: ClusterError | None = None
        leadership = await self.engine.campaign(MEMBERSHIP_DUTY, self.manager_id, DUTY_TTL_S)
        try:
            await self.store.barrier()
            alive = await self._alive()
            # Who is down first: a running one may have to wait until it is out.
            for record in sorted(self._work(), key=lambda record: record.id in alive):
                try:
                    await self._take_out(self.membership, record)
                except IntegrityError:
                    raise
                except ClusterError as error:
                    failure = error
        finally:
            await leadership.resign()
        if failure is not None:
            raise failure

    async def _take_out(self, membership: EtcdMembership, record: ManagerRecord) -> None:
        if not self._has_successor(record):
            for member in await membership.members():
                if member.peer_address == record.peer_address:
                    await membership.remove_member(member.member_id)
        await self.removal.finish(self.own, ManagerId(record.id))
        log.info("manager.removed", name=record.name)

    def _work(self) -> list[ManagerRecord]:
        """Return who is to go: not this manager itself, which could not note it afterwards."""
        leaving = leaving_managers(self.store.view)
        if any(record.id == self.manager_id for record in leaving):
            return []
        return leaving

    def _has_successor(self, record: ManagerRecord) -> bool:
        """Return whether a manager that stays has this one's address: then the member is its own.

        Two joins from one address may be pending at once, and one of them be given up.
        """
        records = (stored.record for stored in self.store.view.managers.values())
        return any(
            other.peer_address == record.peer_address
            and other.state in {ManagerState.PENDING, ManagerState.ACTIVE}
            for other in records
        )

    async def _alive(self) -> frozenset[ManagerId]:
        holders = await self.engine.holders()
        return frozenset(
            ManagerId(name.removeprefix(ALIVE_PREFIX))
            for name in holders
            if name.startswith(ALIVE_PREFIX)
        ) | {self.manager_id}


def _on_manager(wake: Callable[[], None]) -> Callable[[ViewChange], None]:
    def on_change(change: ViewChange) -> None:
        if any(one.kind is Kind.MANAGER for one in change.changed):
            wake()

    return on_change


async def _wait(changed: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(LOOK_S):
            await changed.wait()
    except TimeoutError:
        return
    changed.clear()
