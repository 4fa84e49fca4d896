"""The placement duty: one manager at a time places tasks, judges rollouts, sweeps, and beats.

Level-triggered: each round looks at the whole view and writes what differs from what should be, so
a round that was lost, or a conflict, costs nothing but the next round. Every write carries the
guard of the campaign: a holder that was replaced cannot write. Source: DESIGN 6.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import timedelta
from typing import Final, TypeVar

import msgspec
import structlog

from cluster.control.live_records import LiveRecords
from cluster.control.node_states import NodeStates
from cluster.control.placement import Changes, place
from cluster.control.policy import Action, Principal, Resource, authorize
from cluster.control.requests import REQUEST_TTL
from cluster.control.retirement import Retirement
from cluster.control.rollout_duty import RolloutDuty
from cluster.control.sweep import STEPS_PER_WRITE, KnownRequests, overdue
from cluster.control.task_history import Ending, avoided, remembered
from cluster.control.unwell import Unwell
from cluster.protocol.errors import AlreadyExists, StaleVersion, Unavailable
from cluster.protocol.ids import ManagerId
from cluster.store.records import (
    CLUSTER_ID,
    ClusterRecord,
    Kind,
    Outage,
    TaskRecord,
)
from cluster.store.sealed_store import SealedStore
from cluster.store.steps import Create, Remove, Replace, Require, Step, Write
from cluster.store.view import Stored, View, ViewChange
from cluster.system import Clock

log = structlog.get_logger(__name__)

T = TypeVar("T")

DEBOUNCE_S: Final = 0.01
"""Changes that come together are looked at together."""
DEBOUNCE_PER_TARGET_S: Final = 0.0001
"""A rollout is written whole: the more tasks it has, the more reports go into one write."""
REST_PER_PLACING: Final = 4.0
"""Placement looks at everything, a rollout at all of its tasks: they take a fifth of a manager's
time at most, however much that is."""
BACK_OFF_S: Final = 0.2
LOOK_AGAIN_S: Final = 15.0
BEAT: Final = timedelta(minutes=5)
OUTAGE: Final = timedelta(minutes=15)
"""A gap in the beat as long as this is an outage, in which nobody could renew a certificate."""
OUTAGES_KEPT: Final = 32
SWEEP: Final = timedelta(seconds=30)
TASKS_PER_WRITE: Final = 30

_PLACING: Final = frozenset({Kind.SERVICE, Kind.NODE, Kind.NODE_STATUS, Kind.TASK, Kind.MANAGER})


class PlacementDuty:
    """The duty while this manager holds it; make a new one for each time of holding it."""

    def __init__(
        self,
        store: SealedStore,
        clock: Clock,
        principal: Principal,
        guarded: Callable[[Write], Write],
        alive: Callable[[], Collection[ManagerId]],
    ) -> None:
        """Take the duty up.

        `principal`: this manager; `guarded`: returns a write with the campaign's guard;
        `alive`: the managers that answer now.
        """
        self._store = store
        self._clock = clock
        self._principal = principal
        self._guarded = guarded
        self._alive = alive
        self._states = NodeStates(clock.monotonic_s())
        self._unwell = Unwell()
        self._changed = asyncio.Event()
        self._settled: dict[str, int] = {}
        """Service id -> the generation of which every task stands where it should."""
        self._requests = KnownRequests()
        self._rollouts = RolloutDuty(store, clock, self._commit)
        self._retirement = Retirement(store, clock, self._commit)
        self._place_due = True
        self._placing_s = 0.0
        self._next_beat_s = clock.monotonic_s()
        self._next_sweep_s = clock.monotonic_s()

    async def run(self) -> None:
        """Hold the duty until cancelled. Raises Conflict when the campaign was lost."""
        unsubscribe = self._store.view.subscribe(self._notice)
        self.look_again()
        try:
            while True:
                await self._try_round()
                await self._wait()
        finally:
            unsubscribe()

    async def round(self) -> None:
        """Look once at everything that is due, and write what differs."""
        await self._beat()
        waits = self._states.next_look_s(self._clock.monotonic_s()) is not None
        if self._place_due or waits or self._unwell.is_due(self._now_s()):
            await self._place()
        await self._rollouts.round(LiveRecords(self._settled_at, lambda: iter(self._settled)))
        await self._retirement.round()
        await self._sweep()

    def look_again(self) -> None:
        """Make the next round look at everything, whatever changed."""
        self._place_due = True
        self._rollouts.look_again()
        self._retirement.look_again()
        self._changed.set()

    async def _try_round(self) -> None:
        try:
            await self.round()
        except (StaleVersion, AlreadyExists, Unavailable) as error:
            # Somebody wrote meanwhile, or the engine hesitates: the next round sees how it stands.
            log.info("placement.again", code=error.code)
            self.look_again()
            await asyncio.sleep(BACK_OFF_S)

    async def _wait(self) -> None:
        look_s = self._states.next_look_s(self._clock.monotonic_s())
        try:
            due_s = min(
                look_s or LOOK_AGAIN_S,
                self._unwell.next_look_s(self._now_s()),
                self._retirement.next_look_s(),
                self._rollouts.next_look_s(),
            )
            async with asyncio.timeout(min(due_s, LOOK_AGAIN_S)):
                await self._changed.wait()
        except TimeoutError:
            # Managers come and go without a record: silence is looked at now and then.
            self._place_due = True
        rest_s = DEBOUNCE_S + self._rollouts.open_targets * DEBOUNCE_PER_TARGET_S
        await asyncio.sleep(rest_s + self._rest_s())
        self._placing_s = self._rollouts.judging_s = 0.0
        self._changed.clear()

    def _rest_s(self) -> float:
        """Return how long to rest after the last look at everything: a process that was stopped
        meanwhile, or a machine that slept, took no work's time."""
        looked_s = self._placing_s + self._rollouts.judging_s
        return min(looked_s * REST_PER_PLACING, LOOK_AGAIN_S)

    def _notice(self, change: ViewChange) -> None:
        kinds = {changed.kind for changed in change.changed}
        self._place_due |= not kinds.isdisjoint(_PLACING) or self._unwell.notice(change)
        self._rollouts.notice(kinds)
        self._retirement.notice(kinds)
        if self._place_due or self._rollouts.is_due:
            self._changed.set()

    async def _place(self) -> None:
        self._place_due = False
        view = self._store.view
        services = {stored.record.id: stored for stored in view.services.values()}
        started_s = self._clock.monotonic_s()
        changes = self._changes(view)
        self._placing_s = self._clock.monotonic_s() - started_s
        unsettled = changes.unsettled()
        self._settled = {
            service_id: stored.generation
            for service_id, stored in services.items()
            if service_id not in unsettled
        }
        self._rollouts.look_again()
        for skipped in changes.skipped:
            log.info("placement.waiting", service_id=skipped.service_id, reason=skipped.reason)
        # Removals first: a node must not hold two services of one uid, not even for a moment.
        for endings in _pieces(changes.endings, TASKS_PER_WRITE):
            await self._commit_tasks(_removals(self._store.view, endings, self._now_s()), "removed")
        for tasks in _pieces(changes.create, TASKS_PER_WRITE):
            steps = (step for task in tasks for step in _creation(self._store.view, task))
            await self._commit_tasks(steps, "placed")

    def _changes(self, view: View) -> Changes:
        now_s = self._now_s()
        statuses = [stored.record for stored in view.node_statuses.values()]
        return place(
            services=[stored.record for stored in view.services.values()],
            nodes=[stored.record for stored in view.nodes.values()],
            states=self._states.judge(statuses, self._alive(), self._clock.monotonic_s()),
            tasks=[stored.record for stored in view.tasks.values()],
            now_s=now_s,
            shared_uids={status.id for status in statuses if status.mounts == "given"},
            held_uids=view.holds.held_uids(),
            unwell=self._unwell.judge(view, now_s),
            avoided=avoided(view, now_s),
        )

    async def _commit_tasks(self, steps: Iterable[Step], word: str) -> None:
        distinct = _distinct(steps)
        ids = [task_id for step in distinct if (task_id := _task_changed(step))]
        if ids:
            detail = f"{word} {len(ids)}: {' '.join(ids[:4])}"
            await self._commit(distinct, Action.PLACEMENT_CHANGE, detail)

    def _settled_at(self, service_id: str) -> int | None:
        """Return a service's generation if every task of it stands where it should."""
        stored = self._store.view.services.get(service_id)
        if stored is None or self._settled.get(service_id) != stored.generation:
            return None
        return stored.generation

    async def _beat(self) -> None:
        """Leave a sign of life; a long gap since the last one is recorded as an outage."""
        stored = self._store.view.cluster.get(CLUSTER_ID)
        if stored is None or self._clock.monotonic_s() < self._next_beat_s:
            return
        alive = _alive(stored, self._now_s())
        await self._commit([Replace(stored, alive)], Action.CLUSTER_ALIVE)
        self._next_beat_s = self._clock.monotonic_s() + BEAT.total_seconds()

    async def _sweep(self) -> None:
        if self._clock.monotonic_s() < self._next_sweep_s:
            return
        grace_s = self._store.cluster.return_grace_s
        view = self._store.view
        requests = self._requests.over(view, self._clock.monotonic_s(), REQUEST_TTL.total_seconds())
        steps = overdue(view, self._now_s(), grace_s, requests)
        if steps:
            await self._commit(steps, Action.RECORD_SWEEP)
        if len(steps) >= STEPS_PER_WRITE:
            # More is overdue: the next round goes on at once, after it has looked at the rest.
            self._changed.set()
        else:
            self._next_sweep_s = self._clock.monotonic_s() + SWEEP.total_seconds()

    async def _commit(self, steps: Sequence[Step], action: Action, detail: str = "") -> None:
        resource = Resource(action.value.partition(".")[0])
        entry = authorize(self._principal, action, resource, self._clock.now())
        entry = msgspec.structs.replace(entry, detail=detail)
        await self._store.commit(self._guarded(Write(tuple(steps), (entry,))))

    def _now_s(self) -> float:
        return self._clock.now().timestamp()


def _alive(stored: Stored[ClusterRecord], now_s: float) -> ClusterRecord:
    before = stored.record
    outages = before.outages
    if before.alive_at and now_s - before.alive_at >= OUTAGE.total_seconds():
        outages = (*outages, Outage(before.alive_at, now_s))[-OUTAGES_KEPT:]
    return msgspec.structs.replace(before, alive_at=now_s, outages=outages)


def _creation(view: View, task: TaskRecord) -> list[Step]:
    """Return the steps that place a task, if its service and node still stand as they were."""
    service, node = view.services.get(task.service_id), view.nodes.get(task.node_id)
    if service is None or node is None or view.tasks.get(task.id) is not None:
        return []
    return [Require(service), Require(node), Create(task)]


def _removals(view: View, endings: Iterable[Ending], now_s: float) -> list[Step]:
    """Return the steps that remove tasks which are still there, and remember why."""
    found = [(ending, view.tasks.get(ending.task.id)) for ending in endings]
    there = [(ending, stored) for ending, stored in found if stored is not None]
    removals = [Remove(stored) for _, stored in there]
    return [*removals, *remembered(view, (ending for ending, _ in there), now_s)]


def _task_changed(step: Step) -> str:
    """Return the id of the task that a step makes or removes."""
    match step:
        case (
            Create(record=TaskRecord() as task) | Remove(stored=Stored(record=TaskRecord() as task))
        ):
            return task.id
        case _:
            return ""


def _distinct(steps: Iterable[Step]) -> list[Step]:
    """Return the steps with each record required but once."""
    required: set[tuple[Kind, str]] = set()
    distinct: list[Step] = []
    for step in steps:
        if isinstance(step, Require):
            key = (step.stored.record.kind, step.stored.record.id)
            if key in required:
                continue
            required.add(key)
        distinct.append(step)
    return distinct


def _pieces(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
