"""Exchanging the engine under an unlocked manager: a migration.

What is served stops, the engine is exchanged, and the manager serves from the one that results,
which after a failure may be the one before. Goes on when whoever asked goes away. Where a manager
stands is `cluster.lifecycle`'s, reached by a port; what a change is, is `cluster.migrating`'s.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from cluster.api.routes_admin import MigrateRequest, Step
from cluster.background import Background, Tell
from cluster.config import Config
from cluster.engine_start import StartedEngine
from cluster.migrating import Migration, migrated, require_migratable
from cluster.protocol.errors import InvalidRequest
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
        self, contents: SealFileContents, seal_key: SealKey, started: StartedEngine
    ) -> None:
        """Serve from an engine; return once it does."""
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
            await self.life.resume(contents, seal_key, following)
        except BaseException:
            self.life.give_up()
            raise
        if failure is not None:
            raise failure
