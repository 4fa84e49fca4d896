"""Exchanging the engine under an unlocked manager: a migration, or a recovery from a lost quorum.

What is served stops, the engine is exchanged, and the manager serves from the one that results,
which after a failure may be the one before. Goes on when whoever asked goes away. Where a manager
stands is `cluster.lifecycle`'s, reached by a port; what a change is, is `cluster.migrating`'s
and `cluster.quorum_recovery`'s.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from cluster.api.routes_admin import MigrateRequest, RecoverRequest, Step
from cluster.background import Background, Tell
from cluster.config import Config
from cluster.engine_start import StartedEngine
from cluster.migrating import Migration, migrated, require_migratable
from cluster.protocol.errors import InvalidRequest
from cluster.quorum_recovery import Recovery, look_at_loss, recovered
from cluster.seal.unlock import SealFileContents, SealKey
from cluster.standing import State
from cluster.system import Clock, Entropy

Changed = tuple[StartedEngine, Exception | None]
"""The engine to go on with, and why it is not the one that was asked for."""


class Changeable(Protocol):
    """A manager whose engine can be exchanged."""

    def engine(self) -> StartedEngine:
        """Return the engine that runs. Raises Locked, Unavailable."""
        ...

    def require_intact(self) -> None:
        """Raise unless the manager serves and its records passed their checks."""
        ...

    async def pause(self, state: State) -> tuple[SealFileContents, SealKey]:
        """Stop what is served and let the engine go, which whoever called ends from then on."""
        ...

    async def resume(
        self,
        contents: SealFileContents,
        seal_key: SealKey,
        started: StartedEngine,
        *,
        wait: bool = True,
    ) -> None:
        """Serve from an engine; return once it does, or at once with `wait` false."""
        ...

    def give_up(self) -> None:
        """End the process: there is no engine."""
        ...


@dataclass(slots=True)
class EngineChanges:
    """What can be done to one manager's engine."""

    life: Changeable
    config: Config
    clock: Clock
    entropy: Entropy
    turn: asyncio.Lock
    background: Background = field(init=False)

    def __post_init__(self) -> None:
        self.background = Background(self.turn)

    def migrate(self, request: MigrateRequest) -> AsyncIterator[Step]:
        """Move the store to etcd and serve from there, or on from here if that fails."""
        if request.to != "etcd":
            raise InvalidRequest("a store is migrated to etcd")
        return self.background.run(self._migrate)

    async def lost_quorum(self) -> dict[str, object]:
        """Return what this manager can see of a lost quorum. Raises Conflict where there is one."""
        loss = await look_at_loss(self.config, self.life.engine())
        shown: dict[str, object] = msgspec.to_builtins(loss)
        return shown

    def recover_quorum(self, request: RecoverRequest) -> AsyncIterator[Step]:
        """Make a cluster of this manager alone, after the majority is lost for good."""
        if not request.data_may_be_lost:
            raise InvalidRequest("what only the lost managers held is lost; say that it may be")
        return self.background.run(self._recover_quorum)

    async def _recover_quorum(self, tell: Tell) -> None:
        loss = await look_at_loss(self.config, self.life.engine())

        async def change(contents: SealFileContents, started: StartedEngine) -> Changed:
            recovery = Recovery(self.config, contents, self.clock, self.entropy, loss.voters)
            return await recovered(recovery, started, tell)

        await self._change(State.RECOVERING, change, tell)

    async def _migrate(self, tell: Tell) -> None:
        source = await require_migratable(self.config, self.life.engine())
        self.life.require_intact()

        async def change(contents: SealFileContents, started: StartedEngine) -> Changed:
            migration = Migration(self.config, contents, source, self.clock, self.entropy)
            return await migrated(migration, started, tell)

        await self._change(State.MIGRATING, change, tell)

    async def _change(
        self,
        state: State,
        change: Callable[[SealFileContents, StartedEngine], Awaitable[Changed]],
        tell: Tell,
    ) -> None:
        started = self.life.engine()
        tell("stopping what is served")
        contents, seal_key = await self.life.pause(state)
        try:
            following, failure = await change(contents, started)
            tell("opening the store")
            # What goes on as before, where that was without a quorum, would be waited for in vain.
            wait = failure is None or state is State.MIGRATING
            await self.life.resume(contents, seal_key, following, wait=wait)
        except BaseException:
            self.life.give_up()
            raise
        if failure is not None:
            raise failure
