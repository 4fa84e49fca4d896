"""Duties that one manager at a time performs: placement, finding out which nodes went down with
their manager, and keeping the audit from filling the store.

Whoever holds the duty puts its guard into every write, so a holder that was replaced (paused,
partitioned) cannot write. Everyone also keeps a sign of life as a campaign of its own: its
disappearance is how the others learn that a manager died.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from cluster.control.audit_duty import AuditDuty
from cluster.control.placement_duty import PlacementDuty
from cluster.control.policy import Principal
from cluster.control.rotation_duty import RotationDuty
from cluster.dispatcher.presence import mark_down
from cluster.engine.seam import Compare, Engine, Leadership
from cluster.hook.contract import Hooks
from cluster.hook.directory import HookDirectory
from cluster.protocol.errors import ClusterError, IntegrityError
from cluster.protocol.ids import ManagerId, NodeId
from cluster.store.audit_trim import AuditTrim
from cluster.store.records import NodeState
from cluster.store.sealed_store import SealedStore
from cluster.store.steps import Write
from cluster.system import Clock, Entropy, SystemEntropy

log = structlog.get_logger(__name__)

DUTY: Final = "placement"
"""The campaign that carries all of them."""
DUTY_TTL_S: Final = 5.0
ALIVE_PREFIX: Final = "manager/"
ORPHAN_AFTER_S: Final = 15.0
"""How long the nodes of a dead manager may take to come back elsewhere before they count as
down."""
LOOK_S: Final = 2.0
ABLE_LOOK_S: Final = 1.0
RETRY_S: Final = 1.0


@dataclass(slots=True)
class Duties:
    """The duties of one manager."""

    engine: Engine
    store: SealedStore
    principal: Principal
    clock: Clock
    manager_id: ManagerId
    trim: AuditTrim | None = None
    """Trims the audit; None where no directory takes the exports."""
    hooks: Hooks = field(default_factory=HookDirectory)
    entropy: Entropy = field(default_factory=SystemEntropy)
    is_able: Callable[[], bool] = lambda: True
    """Whether this manager can write: one that cannot leaves the duties to others."""
    _alive: frozenset[ManagerId] = frozenset()
    _orphaned_since: dict[NodeId, float] = field(default_factory=dict)

    async def stay_alive(self) -> None:
        """Hold this manager's sign of life for ever."""
        while True:
            try:
                leadership = await self.engine.campaign(
                    f"{ALIVE_PREFIX}{self.manager_id}", self.manager_id, DUTY_TTL_S
                )
                await leadership.lost()
            except ClusterError as error:
                log.warning("duty.alive_lost", code=error.code)
            await asyncio.sleep(RETRY_S)

    async def run(self) -> None:
        """Take the duties whenever they are free, and perform them until they are lost."""
        while True:
            try:
                await self._until(able=True)
                leadership = await self.engine.campaign(DUTY, self.manager_id, DUTY_TTL_S)
                await self._hold(leadership)
            except IntegrityError:
                raise
            except ClusterError as error:
                log.warning("duty.lost", code=error.code)
            await asyncio.sleep(RETRY_S)

    async def _hold(self, leadership: Leadership) -> None:
        log.info("duty.taken", duty=DUTY, manager_id=self.manager_id)
        try:
            await self._perform(leadership)
        finally:
            # Whatever ended it: a duty that is kept and not performed stops every manager.
            with contextlib.suppress(ClusterError):
                await leadership.resign()

    async def _perform(self, leadership: Leadership) -> None:
        """Perform the duty until it is lost; raise what makes it impossible."""
        self._orphaned_since.clear()
        self._alive = await self._managers_alive()
        guard = leadership.guard
        guarded = _guarded_by(guard)
        placement = PlacementDuty(
            self.store, self.clock, self.principal, guarded, lambda: self._alive
        )
        rotation = RotationDuty(
            self.store, self.clock, self.entropy, self.principal, guarded, self.hooks
        )
        tasks = (
            asyncio.create_task(placement.run(), name="placement"),
            asyncio.create_task(rotation.run(), name="rotation"),
            asyncio.create_task(self._watch_orphans(guard), name="orphans"),
            asyncio.create_task(leadership.lost(), name="duty"),
            asyncio.create_task(self._until(able=False), name="able"),
            *self._audit_tasks(guard),
        )
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    def _audit_tasks(self, guard: Compare) -> tuple[asyncio.Task[None], ...]:
        if self.trim is None:
            return ()
        duty = AuditDuty(self.trim, self.clock, self.principal, (guard,))
        return (asyncio.create_task(duty.run(), name="audit"),)

    async def _until(self, *, able: bool) -> None:
        """Return when this manager can write, or cannot."""
        while self.is_able() is not able:  # noqa: ASYNC110  # it also turns with time alone
            await asyncio.sleep(ABLE_LOOK_S)
        if not able:
            log.warning("duty.given_up", duty=DUTY, reason="the record cannot be written")

    async def _watch_orphans(self, guard: Compare) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self._look_for_orphans(guard)

    async def _look_for_orphans(self, guard: Compare) -> None:
        """Mark nodes down whose manager is gone and that came back nowhere."""
        self._alive = await self._managers_alive()
        now = self.clock.monotonic_s()
        orphans = {
            NodeId(stored.record.id): stored.record
            for stored in self.store.view.node_statuses.values()
            if stored.record.state is NodeState.READY
            and stored.record.manager_id not in self._alive
        }
        for node_id in self._orphaned_since.keys() - orphans.keys():
            del self._orphaned_since[node_id]
        for node_id, status in orphans.items():
            since = self._orphaned_since.setdefault(node_id, now)
            if now - since >= ORPHAN_AFTER_S:
                await mark_down(self.store, status, self.clock, (guard,))

    async def _managers_alive(self) -> frozenset[ManagerId]:
        """Return who shows a sign of life; whoever asks is alive, even before his own stands."""
        holders = await self.engine.holders()
        return frozenset(
            ManagerId(name.removeprefix(ALIVE_PREFIX))
            for name in holders
            if name.startswith(ALIVE_PREFIX)
        ) | {self.manager_id}


def _guarded_by(guard: Compare) -> Callable[[Write], Write]:
    return lambda write: replace(write, guards=(*write.guards, guard))
