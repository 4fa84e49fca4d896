"""The duty of rollouts: take the next step of each that is open.

Part of the placement duty. Level-triggered: each round looks at the records as they are and at the
injected clock. A step and what it changes are one transaction, so whoever holds the duty next goes
on from a whole step, never from half of one.
"""

from collections.abc import Awaitable, Callable, Collection, Container, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog

from cluster.control.own_time import OwnTimes
from cluster.control.policy import Action
from cluster.control.rollout_rollback import rollback_steps
from cluster.control.rollout_steps import due_s, newest_s, step
from cluster.control.rollouts import facts_of
from cluster.protocol.errors import Conflict, InvalidReference, StaleVersion
from cluster.store.records import Kind, RolloutRecord, RolloutState
from cluster.store.sealed_store import SealedStore
from cluster.store.steps import Replace, Step
from cluster.store.view import Stored, View
from cluster.system import Clock

log = structlog.get_logger(__name__)

ROLLOUTS_PER_WRITE: Final = 8
LOOK_AGAIN_S: Final = 60.0
_JUDGED: Final = frozenset(
    {
        Kind.SERVICE,
        Kind.NODE,
        Kind.NODE_STATUS,
        Kind.TASK,
        Kind.TASK_STATUS,
        Kind.ROLLOUT,
        Kind.SECRET,
    }
)

Commit = Callable[[Sequence[Step], Action, str], Awaitable[None]]
"""Writes steps under the duty's guard, with what the audit says of them."""


@dataclass(slots=True)
class RolloutDuty:
    """What the holder of the duty does for rollouts."""

    store: SealedStore
    clock: Clock
    commit: Commit
    is_due: bool = True
    open_targets: int = 0
    """Of all open rollouts."""
    judging_s: float = 0.0
    """How long the last judgement took, until somebody rests for it."""
    _look_at_s: float | None = None
    """By the clock that never jumps."""
    _times: OwnTimes = field(init=False)

    def __post_init__(self) -> None:
        self._times = OwnTimes(self.clock)

    def notice(self, kinds: Collection[Kind]) -> None:
        """Take in which kinds of records changed."""
        self.is_due |= not _JUDGED.isdisjoint(kinds)

    def look_again(self) -> None:
        """Make the next round look at everything, whatever changed."""
        self.is_due = True

    def next_look_s(self) -> float:
        """Return in how many seconds a rollout stands otherwise though nothing is reported."""
        if self._look_at_s is None:
            return LOOK_AGAIN_S
        return min(max(self._look_at_s - self.clock.monotonic_s(), 0.0), LOOK_AGAIN_S)

    async def round(self, settled: Container[str]) -> None:
        """Take every step that is due; `settled`: the services whose tasks stand where they
        should."""
        monotonic_s = self.clock.monotonic_s()
        if not self.is_due and (self._look_at_s is None or monotonic_s < self._look_at_s):
            return
        self.is_due = False
        view = self.store.view
        open_ones = [s for s in view.rollouts.values() if s.record.finished_at is None]
        self.open_targets = sum(len(stored.record.targets) for stored in open_ones)
        self._times.keep_only({stored.record.id for stored in open_ones})
        self._look_at_s = None
        if not open_ones:
            return
        started_s = self.clock.monotonic_s()
        facts = facts_of(view, settled)
        after: list[tuple[Stored[RolloutRecord], RolloutRecord]] = []
        for stored in open_ones:
            now_s = self._times.now_s(stored.record.id, newest_s(stored.record))
            rollout = step(stored.record, facts, now_s)
            after.append((stored, rollout))
            if (due := due_s(rollout, now_s)) is not None:
                self._look_by(monotonic_s + due - now_s)
        self.judging_s = self.clock.monotonic_s() - started_s
        try:
            await self._write(view, after, self.clock.now().timestamp())
        except BaseException:
            # Whatever came in between: the next round looks at these again.
            self.is_due = True
            raise

    async def _write(
        self,
        view: View,
        after: Sequence[tuple[Stored[RolloutRecord], RolloutRecord]],
        now_s: float,
    ) -> None:
        plain: list[Step] = []
        for stored, rollout in after:
            if _turns_back(stored.record, rollout):
                await self._take_back(view, stored, rollout, now_s)
            elif rollout != stored.record:
                plain.append(Replace(stored, rollout))
                _tell(stored.record, rollout)
        for start in range(0, len(plain), ROLLOUTS_PER_WRITE):
            await self.commit(plain[start : start + ROLLOUTS_PER_WRITE], Action.ROLLOUT_UPDATE, "")

    async def _take_back(
        self, view: View, stored: Stored[RolloutRecord], after: RolloutRecord, now_s: float
    ) -> None:
        """Take a rollout back with what it changed; where that cannot be, pause it."""
        try:
            steps = rollback_steps(view, stored, after.reason, now_s)
            detail = f"{after.name} rolled back"
        except StaleVersion:
            raise
        except (Conflict, InvalidReference) as error:
            reason = f"{after.reason}; it cannot be rolled back: {error.message}"
            after = msgspec.structs.replace(stored.record, state=RolloutState.PAUSED, reason=reason)
            steps, detail = [Replace(stored, after)], f"{after.name} paused"
        await self.commit(steps, Action.ROLLOUT_UPDATE, detail)
        _tell(stored.record, after)

    def _look_by(self, at_s: float) -> None:
        self._look_at_s = at_s if self._look_at_s is None else min(self._look_at_s, at_s)


def _turns_back(before: RolloutRecord, after: RolloutRecord) -> bool:
    return (
        after.state is RolloutState.ROLLING_BACK and before.state is not RolloutState.ROLLING_BACK
    )


def _tell(before: RolloutRecord, after: RolloutRecord) -> None:
    """Log what became of a rollout; its steps are told by its record."""
    if after.state is before.state:
        return
    log.info(
        "rollout.moved",
        rollout_id=after.id,
        name=after.name,
        state=after.state.value,
        reason=after.reason,
    )
