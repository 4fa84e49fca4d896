"""One agent of a fleet: the agent as it ships, less the sockets that nobody of the fleet calls.

Session, links, certificates, mount table and loop are `agent.main`'s. What is left out are the
control socket and the workload sockets; what is added is a note of when each version was written
and acknowledged.
"""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent import effects
from agent.config import AgentConfig
from agent.main import Agent
from agent.mount_proof import MountProof
from agent.mounts import MountKind
from cluster.system import Clock, Entropy
from tests.scale.directories import DirectoryTable

TICK_S: Final = 1.0
"""The longest that the session core allows; of thousands of agents most turns are ticks."""


@dataclass(slots=True)
class HeldVersion:
    """A version in an agent's files. Moments are CLOCK_MONOTONIC seconds."""

    version: int
    written_s: float
    acked_s: float | None = None
    """When the ack had been handed to the connection."""


class Witness:
    """What an agent has had in its files, by the name of the secret; outlives its process."""

    def __init__(self) -> None:
        self.held: dict[str, HeldVersion] = {}
        self.applied = 0

    def written(self, versions: dict[str, int]) -> None:
        """Note what is in the files now."""
        self.applied += 1
        now_s = time.monotonic()
        for gone in self.held.keys() - versions.keys():
            del self.held[gone]
        for name, version in versions.items():
            known = self.held.get(name)
            if known is None or known.version != version:
                self.held[name] = HeldVersion(version, now_s)

    def acked(self) -> None:
        """Note that all of it was acknowledged."""
        now_s = time.monotonic()
        for one in self.held.values():
            if one.acked_s is None:
                one.acked_s = now_s


class SimulatedAgent(Agent):
    """An agent in the fleet's process."""

    def __init__(
        self, base: Path, proof: MountProof, witness: Witness, clock: Clock, entropy: Entropy
    ) -> None:
        super().__init__(config_of(base), clock, entropy)
        self.witness = witness
        self._table = DirectoryTable(self._config, proof, self._note_written)

    @property
    def is_synced(self) -> bool:
        """Whether it is in session and has had its assignments."""
        session = getattr(self, "_session", None)
        return session is not None and session.is_synced

    @property
    def services_in_place(self) -> int:
        """How many services it has files of."""
        return len(self._table._entries)

    @property
    def links_opened(self) -> int:
        """How many connections it has opened since it started."""
        return self._links._count

    def cut(self) -> None:
        """Lose every connection without a word, as by a fault of the network."""
        for link in self._links._links.values():
            link.connection.transport.abort()

    async def _serve(self, stop: asyncio.Event) -> None:
        await self._carry_out(self._session.on_tick(self._clock.boottime_s()))
        self._links.open()
        try:
            while not stop.is_set():
                await self._turn()
        finally:
            self._on_change.cancel()
            self._health.cancel()
            await self._links.close_all()

    async def _turn(self) -> None:
        await self._follow(await self._links.next_event(TICK_S))

    async def _apply(self, work: effects.Apply) -> None:
        await super()._apply(work)
        self.witness.acked()

    def _note_written(self) -> None:
        versions: dict[str, int] = {}
        for service in self._table.mounted.values():
            for file in service.files:
                known = versions.get(file.name, file.version)
                versions[file.name] = min(known, file.version)
        self.witness.written(versions)


def config_of(base: Path) -> AgentConfig:
    """Return the configuration of the agent whose directory is `base`."""
    return AgentConfig(
        data_dir=base / "data",
        run_dir=base / "run",
        mounts=MountKind.GIVEN,
        given_root=base / "given",
    )
