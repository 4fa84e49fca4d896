"""The rotation duty: whoever holds the placement duty also carries out rotations, step by step.

Level-triggered: each look starts what is due, and takes every unfinished rotation one move further,
each in a task of its own, so that a hook that hangs holds up its own secret alone. What a move is,
`rotation_moves` knows. Source: DESIGN 6.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from cluster.control.own_time import OwnTimes
from cluster.control.policy import Principal
from cluster.control.rotation_facts import facts_for
from cluster.control.rotation_moves import RotationMoves
from cluster.control.rotation_records import (
    new_rotation,
    open_rotation,
)
from cluster.control.rotation_steps import (
    Move,
    Wait,
    attempted_at_s,
    given_up,
    next_move,
)
from cluster.control.scheduled import next_time
from cluster.hook.contract import Hooks
from cluster.protocol.errors import (
    AlreadyExists,
    IntegrityError,
    StaleVersion,
    Unavailable,
)
from cluster.protocol.ids import ID_SIZE, SecretId, format_id
from cluster.store.records import (
    Kind,
    RotationRecord,
    RotationSchedule,
    RotationStep,
    SecretRecord,
)
from cluster.store.sealed_store import SealedStore
from cluster.store.steps import Create, Replace, Write
from cluster.store.view import Stored, ViewChange
from cluster.system import Clock, Entropy

log = structlog.get_logger(__name__)

LOOK_AGAIN_S: Final = 15.0
DEBOUNCE_S: Final = 0.01
BACK_OFF_S: Final = 0.2
MAX_OPEN: Final = 8
"""Rotations that the schedule starts, and moves that are made, at once."""
OVERDUE_S: Final = 60.0
SPREAD_S: Final = 30.0
"""What is overdue starts within this time, and not all at once."""
BY_SCHEDULE: Final = "schedule"

_CONCERNED: Final = frozenset(
    {Kind.SECRET, Kind.ROTATION, Kind.ROLLOUT, Kind.SERVICE, Kind.NODE_STATUS}
)


class RotationDuty:
    """The duty while this manager holds it; make a new one for each time of holding it."""

    def __init__(
        self,
        store: SealedStore,
        clock: Clock,
        entropy: Entropy,
        principal: Principal,
        guarded: Callable[[Write], Write],
        hooks: Hooks,
    ) -> None:
        """Take the duty up. `principal`: this manager; `guarded`: as in `PlacementDuty`."""
        self._store = store
        self._clock = clock
        self._times = OwnTimes(clock)
        self._entropy = entropy
        self._moves = RotationMoves(store, clock, entropy, principal, guarded, hooks)
        self._changed = asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._starts_at: dict[str, float] = {}
        """Secret id -> when an overdue rotation begins here."""
        self._broken: set[str] = set()
        """Rotations whose value cannot be opened: somebody must look first."""
        self._next_look_s = 0.0

    async def run(self) -> None:
        """Hold the duty until cancelled. Raises Conflict when the campaign was lost."""
        unsubscribe = self._store.view.subscribe(self._notice)
        try:
            while True:
                self._changed.clear()
                await self._try_look()
                await self._wait()
        finally:
            unsubscribe()
            await self._end_all()

    async def round(self) -> None:
        """Look once, and wait until every move that it began is made."""
        await self._look()
        if self._running:
            await asyncio.wait(self._running.values())
        self._collect()

    # --- looking --------------------------------------------------------------------------------

    async def _try_look(self) -> None:
        try:
            await self._look()
        except (StaleVersion, AlreadyExists, Unavailable) as error:
            log.info("rotation.again", code=error.code)
            self._changed.set()
            await asyncio.sleep(BACK_OFF_S)

    async def _look(self) -> None:
        """Start what is due, and begin the next move of every rotation."""
        self._collect()
        now_s = self._now_s()
        self._next_look_s = now_s + LOOK_AGAIN_S
        await self._start_due(now_s)
        unfinished = self._unfinished()
        self._times.keep_only({stored.record.id for stored in unfinished})
        for stored in unfinished:
            if stored.record.id in self._running or stored.record.id in self._broken:
                continue
            if len(self._running) == MAX_OPEN:
                return  # the end of a move brings the next look
            move = self._next_move(stored.record)
            if isinstance(move, Wait):
                self._look_by(move.until)
                continue
            task = asyncio.create_task(self._make(stored, move), name="rotation")
            task.add_done_callback(lambda _: self._changed.set())
            self._running[stored.record.id] = task

    def _collect(self) -> None:
        """Forget the moves that are made, and raise what ended one."""
        done = [key for key, task in self._running.items() if task.done()]
        for task in [self._running.pop(key) for key in done]:
            task.result()

    async def _wait(self) -> None:
        left_s = self._next_look_s - self._now_s()
        try:
            async with asyncio.timeout(min(max(left_s, DEBOUNCE_S), LOOK_AGAIN_S)):
                await self._changed.wait()
        except TimeoutError:
            return
        await asyncio.sleep(DEBOUNCE_S)

    async def _end_all(self) -> None:
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _notice(self, change: ViewChange) -> None:
        if not _CONCERNED.isdisjoint(changed.kind for changed in change.changed):
            self._changed.set()

    def _look_by(self, at_s: float | None) -> None:
        if at_s is not None:
            self._next_look_s = min(self._next_look_s, at_s)

    def _unfinished(self) -> list[Stored[RotationRecord]]:
        rotations = self._store.view.rotations.values()
        return [stored for stored in rotations if stored.record.finished_at is None]

    def _next_move(self, rotation: RotationRecord) -> Move:
        now_s = self._times.now_s(rotation.id, attempted_at_s(rotation))
        return next_move(rotation, facts_for(self._store.view, rotation), now_s)

    # --- starting -------------------------------------------------------------------------------

    async def _start_due(self, now_s: float) -> None:
        room = MAX_OPEN - len(self._unfinished())
        for stored in self._store.view.secrets_scheduled():
            schedule = stored.record.schedule
            if schedule is None or schedule.next_at is None:
                continue
            if now_s < schedule.next_at:
                self._look_by(schedule.next_at)
            elif await self._make_way(stored.record, now_s) and room > 0:
                room -= await self._start(stored, schedule, now_s)

    async def _make_way(self, secret: SecretRecord, now_s: float) -> bool:
        """Return whether no rotation of the secret is under way; end one that only waits for a
        third party to drop an old credential, and was refused."""
        running = open_rotation(self._store.view, SecretId(secret.id))
        if running is None:
            return True
        rotation = running.record
        if (
            rotation.step is RotationStep.RETIRE
            and rotation.error
            and rotation.id not in self._running
        ):
            await self._moves.become(running, given_up(rotation, rotation.error, now_s))
        return False

    async def _start(
        self, stored: Stored[SecretRecord], schedule: RotationSchedule, now_s: float
    ) -> bool:
        """Start a scheduled rotation; one that is long overdue waits a random moment first."""
        secret = stored.record
        begins_at = self._starts_at.setdefault(secret.id, self._begin(schedule, now_s))
        if now_s < begins_at:
            self._look_by(begins_at)
            return False
        del self._starts_at[secret.id]
        later = msgspec.structs.replace(
            schedule, next_at=next_time(schedule.every_s, now_s, self._entropy)
        )
        after = msgspec.structs.replace(secret, schedule=later, updated_at=now_s)
        rotation = new_rotation(secret, self._id(), now_s, BY_SCHEDULE)
        await self._moves.commit(
            [Replace(stored, after), Create(rotation)], rotation, f"begins by {BY_SCHEDULE}"
        )
        return True

    def _begin(self, schedule: RotationSchedule, now_s: float) -> float:
        if schedule.next_at is None or now_s - schedule.next_at < OVERDUE_S:
            return now_s
        return now_s + self._entropy.uniform(0.0, SPREAD_S)

    # --- moving ---------------------------------------------------------------------------------

    async def _make(self, stored: Stored[RotationRecord], move: Move) -> None:
        """Make one move; what somebody else's write overtook is decided again."""
        try:
            await self._moves.carry_out(stored, move)
        except IntegrityError as error:
            self._broken.add(stored.record.id)
            log.error("rotation.stopped", operation=stored.record.id, code=error.code)  # noqa: TRY400  # a trace may show a value
        except (StaleVersion, AlreadyExists, Unavailable) as error:
            log.info("rotation.again", operation=stored.record.id, code=error.code)
            await asyncio.sleep(BACK_OFF_S)

    def _now_s(self) -> float:
        return self._clock.now().timestamp()

    def _id(self) -> str:
        return format_id(self._entropy.token(ID_SIZE))
