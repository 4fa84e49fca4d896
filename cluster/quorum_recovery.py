"""`strongroom manager recover-quorum`: one surviving manager becomes a cluster of its own.

For a majority that is gone for good. What only the lost managers had acknowledged is lost, so a
person has to say so. Each step may be the last before a crash:

    step                                 a crash afterwards leaves
    1 mark                               a manager that goes on here when it is unlocked
    2 etcd started as the only member    the same: doing it again changes nothing
    3 new life recorded, mark removed    a cluster of one manager

The new life has a higher incarnation, and the other managers are removed in it: agents follow, and
an old manager that comes back is refused. Owns the mark, the question whether there is a quorum
after all, and the record. Source: etcd's disaster recovery, DESIGN 3.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import structlog

from cluster.config import Config
from cluster.control.callers import LOCAL_ROOT
from cluster.control.policy import Action, Resource, authorize
from cluster.engine.sqlite_disk import sync_directory
from cluster.engine_start import StartedEngine, start_engine
from cluster.protocol.errors import ClusterError, Conflict, WrongEngine
from cluster.protocol.ids import ID_SIZE, format_id
from cluster.seal.unlock import SealFileContents
from cluster.store.records import CLUSTER_ID, Kind, ManagerState, name_id
from cluster.store.sealed_store import SealedStore
from cluster.store.steps import Remove, Replace, Step, Write
from cluster.store.view import View
from cluster.system import Clock, Entropy

log = structlog.get_logger(__name__)

RECOVERY_MARK: Final = "recovering-quorum"
QUORUM_LOOK_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Loss:
    """What a survivor can see of a lost quorum."""

    voters: tuple[str, ...]
    unreachable: tuple[str, ...]
    """host:port of the engine members that do not answer: gone, down, locked or cut off."""
    revision: int
    """How far this member's data go; 0 where it does not tell, which without a quorum it only does
    while it runs on from before."""


async def look_at_loss(config: Config, started: StartedEngine) -> Loss:
    """Return what is lost. Raises Conflict where a majority answers, WrongEngine on SQLite."""
    if started.member is None:
        raise WrongEngine("this cluster runs on SQLite, whose one manager has no quorum to lose")
    voters = await started.voters()
    if config.peer_address not in voters:
        raise Conflict("this manager's member does not vote; recover on one that does")
    answering = await asyncio.gather(*(started.answers(address) for address in voters))
    unreachable = tuple(a for a, up in zip(voters, answering, strict=True) if not up)
    if len(voters) - len(unreachable) > len(voters) // 2 or await _has_quorum(started):
        raise Conflict(
            "a majority of the managers answers: the quorum is not lost; wait for it, and take "
            "out managers that will not come back with `strongroom manager rm`"
        )
    return Loss(voters, unreachable, await _revision(started))


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


@dataclass(frozen=True, slots=True)
class Recovery:
    """The recovery of one survivor."""

    config: Config
    clock: Clock
    entropy: Entropy

    @property
    def _mark(self) -> Path:
        return self.config.data_dir / RECOVERY_MARK

    @property
    def is_under_way(self) -> bool:
        """Whether somebody decided it and the new life is not recorded yet."""
        return self._mark.exists()

    def begin(self) -> None:
        """Note durably that somebody decided it. Blocking."""
        self._mark.touch(mode=0o600)
        sync_directory(self.config.data_dir)

    async def start_alone(self, contents: SealFileContents) -> StartedEngine:
        """Start this manager's member as the only one of its cluster."""
        return await start_engine(
            self.config, "etcd", contents, self.clock, self.entropy, alone=True
        )

    async def finish(self, store: SealedStore, manager_id: str) -> None:
        """Record the new life, if one is due: a higher incarnation, and no other managers."""
        if not self.is_under_way:
            return
        if len((await store.engine.status()).members) == 1:
            await store.update(lambda view: self._new_life(view, manager_id))
            log.warning("quorum.recovered", name=self.config.name)
        else:
            # etcd had to be started again before it stood alone, and the others came back.
            log.warning("quorum.came_back", name=self.config.name)
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        """Remove the mark durably: one that came back would drop managers that join from now on."""
        self._mark.unlink()
        sync_directory(self.config.data_dir)

    def _new_life(self, view: View, manager_id: str) -> Write:
        now = self.clock.now()
        cluster = view.cluster.rows[CLUSTER_ID]
        life = msgspec.structs.replace(
            cluster.record,
            incarnation_counter=max(cluster.record.incarnation_counter + 1, int(now.timestamp())),
            incarnation_unique=format_id(self.entropy.token(ID_SIZE)),
        )
        steps: list[Step] = [Replace(cluster, life), *_without_others(view, manager_id)]
        entry = authorize(LOCAL_ROOT, Action.QUORUM_RECOVER, Resource("cluster"), now)
        detail = f"{self.config.name} alone; writes that only others held are lost"
        return Write(tuple(steps), (msgspec.structs.replace(entry, detail=detail),))


def _without_others(view: View, manager_id: str) -> list[Step]:
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


async def recovered(
    recovery: Recovery, contents: SealFileContents, started: StartedEngine
) -> StartedEngine:
    """Stop an engine that has no quorum and return it as the only member of its cluster."""
    await asyncio.to_thread(recovery.begin)
    await started.stop()
    return await recovery.start_alone(contents)
