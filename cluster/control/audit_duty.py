"""The audit duty: whoever holds the placement duty also keeps the audit from filling the store.

Trims the chains when they have grown, and destroys key epochs that nothing needs any more. Where
only audit links still lie under an old epoch, they are trimmed for that. Decides when; how is
`store.audit_trim`'s business. Source: ADR 0011.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from cluster.control.policy import Action, Principal, Resource, authorize
from cluster.engine.seam import Compare
from cluster.protocol.errors import (
    AlreadyExists,
    ClusterError,
    Conflict,
    IntegrityError,
    StaleVersion,
)
from cluster.store.audit_trim import AuditTrim, Growth
from cluster.store.key_epochs import drop_epoch, record_epochs
from cluster.store.records import AuditEntry
from cluster.store.start_check import AUDIT
from cluster.system import Clock

log = structlog.get_logger(__name__)

LOOK_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class TrimLimits:
    """How far the audit may grow before it is trimmed."""

    links: int = 100_000
    """As many are verified at each start of a manager."""
    share: float = 0.25
    """Of the engine's quota."""


class AuditDuty:
    """The duty while this manager holds it; make a new one for each time of holding it."""

    def __init__(
        self,
        trim: AuditTrim,
        clock: Clock,
        principal: Principal,
        guards: tuple[Compare, ...],
        limits: TrimLimits | None = None,
    ) -> None:
        """Take the duty up. `principal`: this manager; `guards`: of the campaign."""
        self._trim = trim
        self._store = trim.store
        self._clock = clock
        self._principal = principal
        self._guards = guards
        self._limits = limits or TrimLimits()
        self._broken = False

    async def run(self) -> None:
        """Hold the duty until cancelled. Raises Conflict when the campaign was lost."""
        while True:
            # First the pause: whoever takes the duties has more urgent ones.
            await asyncio.sleep(LOOK_S)
            await self._try_look()

    async def look(self) -> None:
        """Look once, and trim and destroy what is due."""
        await self._trim.clean(self._guards)
        growth = await self._trim.measure()
        if await self._is_due(growth):
            await self._trim.trim(self._guards, self._entry_of(Action.AUDIT_TRIM))
            growth = await self._trim.measure()
        await self._drop_epochs(growth)

    async def _try_look(self) -> None:
        if self._broken or self._store.view.faults:
            return
        try:
            await self.look()
        except IntegrityError as error:
            # A fault, by which this manager is not ready. The evidence stays where it is: nothing
            # is trimmed until somebody has looked.
            self._broken = True
            log.warning("audit.not_trimmed", code=error.code, reason=error.message)
            if not self._store.view.faults:
                self._store.view.fault(AUDIT, error.message)
        except ClusterError as error:
            if isinstance(error, Conflict) and not isinstance(error, StaleVersion | AlreadyExists):
                raise
            log.warning("audit.look_again", code=error.code, reason=error.message)

    async def _is_due(self, growth: Growth) -> bool:
        quota_bytes = (await self._store.engine.status()).quota_bytes
        return (
            growth.links >= self._limits.links
            or growth.size_bytes >= quota_bytes * self._limits.share
            or bool(self._resealed() & growth.epochs)
        )

    def _resealed(self) -> frozenset[int]:
        """Return the old epochs under which no record lies any more."""
        keyring = self._store.keyring
        old = frozenset(keyring.epochs) - {keyring.current}
        return old - record_epochs(self._store.view) if old else old

    async def _drop_epochs(self, growth: Growth) -> None:
        for epoch in sorted(self._resealed() - growth.epochs):
            entry = self._entry_of(Action.KEY_DROP)(str(epoch))
            try:
                await drop_epoch(self._store, epoch, (entry,))
            except Conflict as conflict:
                log.info("keys.epoch_kept", epoch=epoch, reason=conflict.message)
            else:
                log.info("keys.epoch_dropped", epoch=epoch)

    def _entry_of(self, action: Action) -> "_Describe":
        return _Describe(self._principal, action, self._clock)


@dataclass(frozen=True, slots=True)
class _Describe:
    """Makes audit entries of one action."""

    principal: Principal
    action: Action
    clock: Clock

    def __call__(self, detail: str) -> AuditEntry:
        resource = Resource(self.action.value.partition(".")[0])
        entry = authorize(self.principal, self.action, resource, self.clock.now())
        return msgspec.structs.replace(entry, detail=detail)
