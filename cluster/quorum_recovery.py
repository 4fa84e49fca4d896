"""`strongroom store recover-quorum`: one surviving manager goes on alone, as a new cluster.

For a majority that is gone for good. What only the lost managers held is lost, so a person has to
say so. The survivor's engine is not made to serve again: its data are copied, the copy is opened
without the other members and read once, and what it holds is written into a fresh engine.

    step                                     a crash afterwards leaves
    1 engine stopped, its data copied        the old state, still without a quorum
    2 store copied from there, compared      the same; the next start wipes the copies
    3 new life recorded in the fresh engine  the same
    4 one rename (`recovery_directory`)      the new state, of one manager

The new life has a higher incarnation and a fresh key epoch, the other managers are removed in it,
and unspent tokens for managers are gone; the fresh engine is a cluster of another name, which no
old member talks to (`succession`). Owns the question whether there is a quorum after all, and the
steps. Sources: ADR 0015, etcd's disaster recovery.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog

from cluster.config import Config
from cluster.control.callers import LOCAL_ROOT
from cluster.control.policy import Action, Resource, authorize
from cluster.engine_start import (
    StartedEngine,
    answering,
    engine_answers,
    start_engine,
    start_private,
)
from cluster.new_life import NewLife
from cluster.protocol.errors import (
    ClusterError,
    Conflict,
    IntegrityError,
    Unavailable,
    WrongEngine,
)
from cluster.protocol.ids import ID_SIZE, format_id
from cluster.recovery_directory import RecoveryDirectory
from cluster.seal.keyring import Keyring
from cluster.seal.unlock import SealFileContents
from cluster.store.key_epochs import load_wrapped_keyring
from cluster.store.migration import StoreCopy, fingerprint, successor
from cluster.store.records import Kind, ManagerState, TokenRole, name_id
from cluster.store.steps import Remove, Replace, Step, Write
from cluster.store.view import View
from cluster.succession import require_no_successor
from cluster.system import Clock, Entropy

log = structlog.get_logger(__name__)

QUORUM_LOOK_S: Final = 1.5
"""Twice what a majority takes to find a leader."""
START_S: Final = 15.0
OPEN_S: Final = 120.0
"""For an engine that reads a large log first."""
LOOK_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Loss:
    """What a survivor can see of a lost quorum."""

    own: str
    """host:port of its own member."""
    voters: tuple[str, ...]
    unreachable: tuple[str, ...]
    """host:port of the engine members that do not answer: gone, down, locked or cut off."""
    revision: int
    """How far this member's data go; 0 where it does not tell, which without a quorum it only does
    while it runs on from before."""


async def look_at_loss(config: Config, started: StartedEngine) -> Loss:
    """Return what is lost.

    Raises Conflict where a majority answers, PermissionDenied where another survivor was recovered
    already, WrongEngine on SQLite.
    """
    if started.member is None:
        raise WrongEngine("this cluster runs on SQLite, whose one manager has no quorum to lose")
    # The quorum first: an engine that was just started has not read all its members yet.
    has_quorum = await _has_quorum(started)
    voters = await _voters(started)
    await require_no_successor(started)
    if config.peer_address not in voters:
        raise Conflict("this manager's member does not vote; recover on one that does")
    up = await answering(voters)
    unreachable = tuple(address for address in voters if address not in up)
    if has_quorum or len(voters) - len(unreachable) > len(voters) // 2:
        raise Conflict(
            "a majority of the managers answers: the quorum is not lost; wait for it, and take "
            "out managers that will not come back with `strongroom manager rm`"
        )
    return Loss(config.peer_address, voters, unreachable, await _revision(started))


async def _voters(started: StartedEngine) -> tuple[str, ...]:
    """Return the voters, as soon as an engine that was just started tells them."""
    try:
        async with asyncio.timeout(START_S):
            while True:
                try:
                    return await started.voters()
                except Unavailable:
                    await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise Unavailable("etcd does not answer; see its log in the run directory") from None


async def _revision(started: StartedEngine) -> int:
    try:
        return (await started.engine.status()).revision
    except ClusterError:
        return 0


async def _has_quorum(started: StartedEngine) -> bool:
    try:
        async with asyncio.timeout(QUORUM_LOOK_S):
            await started.engine.barrier()
    except (ClusterError, TimeoutError):
        return False
    return True


@dataclass(slots=True)
class Recovery:
    """The recovery of one survivor whose engine was stopped; `run` carries it out once."""

    config: Config
    contents: SealFileContents
    clock: Clock
    entropy: Entropy
    voters: tuple[str, ...]
    """host:port of the old cluster's voters, this one among them."""
    place: RecoveryDirectory = field(init=False)
    _running: list[StartedEngine] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.place = RecoveryDirectory(self.config)

    async def run(self) -> AsyncIterator[str]:
        """Recover, telling each step. Until the last one the survivor's old data are its data.

        Raises what the engines raise, Conflict where the disk is too small, this manager was being
        removed or the others came back, and IntegrityError where the copy differs or the audit does
        not tell what is there.
        """
        yield "copying the engine's data"
        await asyncio.to_thread(self.place.require_space)
        await _to_its_end(self.place.begin)
        yield "opening the copy without the other managers"
        source = await self._start(self.place.survivor.name, alone=True)
        keyring = await self._keyring(source)
        fresh = successor(keyring, self.entropy)
        expected = await fingerprint(source.engine, keyring)
        yield "starting a new engine"
        target = await self._start(self.place.recovered.name)
        copy = StoreCopy(source.engine, target.engine, keyring, fresh, self.entropy)
        async for done in copy.run(self.contents.root_key):
            yield f"copied {done} of {expected.count}"
        yield "comparing"
        if await fingerprint(target.engine, fresh) != expected:
            raise IntegrityError("the copy differs from the store; nothing was changed")
        new = NewLife(self.contents, self.config.peer_address, self.clock, self.entropy)
        life = await new.begin(target.engine, fresh, self._new_life)
        await self.stop()
        yield "going over to it"
        await self._decide()
        log.warning("quorum.recovered", incarnation=f"{life.counter}.{life.unique}")

    async def _decide(self) -> None:
        """Go over to the new engine, unless the others form a majority by now: reading and copying
        take their time, and two clusters of one past must never be."""
        others = [address for address in self.voters if address != self.config.peer_address]
        if len(await answering(others)) > len(self.voters) // 2:
            raise Conflict(
                "a majority of the managers answers again: the quorum is not lost, and nothing "
                "was changed"
            )
        await _to_its_end(self.place.decide)

    async def stop(self) -> None:
        """End the engines that it started."""
        while self._running:
            await self._running.pop().stop()

    async def _start(self, name: str, *, alone: bool = False) -> StartedEngine:
        started = await start_private(
            self.config,
            name,
            self.clock,
            self.entropy,
            # A word of its own: the founder's member, founded again, would have its old name.
            cluster_token=f"{self.contents.cluster_id}.{format_id(self.entropy.token(ID_SIZE))}",
            alone=alone,
        )
        self._running.append(started)
        await engine_answers(started.engine, OPEN_S)
        return started

    async def _keyring(self, source: StartedEngine) -> Keyring:
        wrapped = await load_wrapped_keyring(source.engine)
        if wrapped is None:
            raise IntegrityError("the survivor's store is empty; recover on another manager")
        return Keyring.unwrap(self.contents.root_key, wrapped)

    def _new_life(self, view: View, steps: list[Step]) -> Write:
        _require_staying(view, self.contents.manager_id)
        entry = authorize(LOCAL_ROOT, Action.QUORUM_RECOVER, Resource("cluster"), self.clock.now())
        detail = f"{self.config.name} alone; writes that only others held are lost"
        steps = [*steps, *_without_others(view, self.contents.manager_id), *_without_tokens(view)]
        return Write(tuple(steps), (msgspec.structs.replace(entry, detail=detail),))


def _require_staying(view: View, manager_id: str) -> None:
    """Raise Conflict for a survivor that nobody believes any more: a cluster of it alone would
    begin with its removal."""
    state = view.managers.rows[manager_id].record.state
    if state in {ManagerState.REMOVING, ManagerState.REMOVED}:
        raise Conflict(
            "this manager was being removed from the cluster, and nothing was changed; recover on "
            "another one that survived, or bring one back"
        )


def _without_others(view: View, manager_id: str) -> list[Step]:
    """Return the steps that remove the other managers: nobody believes them any more."""
    steps: list[Step] = []
    for stored in view.managers.values():
        record = stored.record
        if record.id == manager_id or record.state is ManagerState.REMOVED:
            continue
        gone = msgspec.structs.replace(record, state=ManagerState.REMOVED, serials=(), pending=None)
        steps.append(Replace(stored, gone))
        claim = view.names.get(name_id(Kind.MANAGER, record.name))
        if claim is not None and claim.record.owner == record.id:
            steps.append(Remove(claim))
    return steps


def _without_tokens(view: View) -> list[Step]:
    """Return the steps that remove the tokens for managers: one that was spent may look unspent."""
    return [
        Remove(stored)
        for stored in view.join_tokens.values()
        if stored.record.role is TokenRole.MANAGER
    ]


async def _to_its_end(work: Callable[[], None]) -> None:
    """Run blocking work in a thread, and let go of it only once it ended: nothing can cut it short,
    and what comes next on the same disk must not meet it."""
    thread = asyncio.create_task(asyncio.to_thread(work))
    try:
        await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait({thread})
        raise


async def recovered(
    recovery: Recovery, old: StartedEngine, tell: Callable[[str], None]
) -> tuple[StartedEngine, Exception | None]:
    """Carry a recovery out and return the engine to go on with, and why it is not a new one.

    After a failure the disk decides, as it would after a crash. When cancelled, every engine ends.
    """
    await old.stop()
    failure: Exception | None = None
    try:
        async for step in recovery.run():
            tell(step)
    except Exception as error:  # noqa: BLE001  # whatever it was, the manager goes on waiting
        log.warning("quorum.recovery_failed", error=type(error).__name__)
        known = isinstance(error, ClusterError)
        failure = error if known else Unavailable("the recovery failed; see the manager's log")
    finally:
        await recovery.stop()
    await asyncio.to_thread(recovery.place.settle)
    following = await start_engine(
        recovery.config, "etcd", recovery.contents, recovery.clock, recovery.entropy
    )
    return following, failure
