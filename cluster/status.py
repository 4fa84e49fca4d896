"""What `strongroom status` says: managers, leader, engine, lock state, agents, and everything
unhealthy or weak with its reason.

Reads and judges; changes nothing.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from cluster.config import Config
from cluster.control.delivered import must_rotate
from cluster.control.expiry import expiring as expiring_of
from cluster.control.expiry import expiring_shown, findings
from cluster.control.moments import moment
from cluster.control.policy import Action, Principal, Resource, in_reach
from cluster.control.requests import JSON, Requests
from cluster.control.rotation_shown import failing_rotations
from cluster.dispatcher.presence import Presence
from cluster.duties import ALIVE_PREFIX
from cluster.engine.seam import EngineStatus
from cluster.engine_start import StartedEngine
from cluster.protocol.errors import ClusterError, IntegrityError
from cluster.store.records import ManagerRecord, ManagerState, NodeState, RolloutState
from cluster.store.sealed_store import SealedStore

QUOTA_WARNING: Final = 0.75
TWO: Final = 2
"""Managers of which neither may fail."""


@dataclass(slots=True)
class ClusterStatus:
    """Answers for one manager, from its view and its engine."""

    config: Config
    store: SealedStore
    started: StartedEngine
    requests: Requests
    presence: Presence

    async def read(self, principal: Principal) -> dict[str, JSON]:
        """Return the whole status, for an operator."""
        self.requests.check(principal, Action.STATUS_READ, Resource("cluster"))
        view = self.store.view
        in_sight = (s.record for s in view.secrets.values() if in_reach(principal, s.record.labels))
        expiring = expiring_shown(expiring_of(in_sight, self.requests.clock.now().timestamp()))
        return {**await self.summary(expiring), "expiring": expiring}

    async def summary(self, expiring: Sequence[dict[str, JSON]] = ()) -> dict[str, JSON]:
        """Return the whole status; the caller has been authorised (or is local root).

        `expiring`: the versions that its findings name, all of them in the caller's reach.
        """
        engine = await self.started.engine.status()
        alive = await self._alive()
        managers = [self._manager(record, engine, alive) for record in self._records()]
        cluster = self.store.cluster
        nodes = self._nodes()
        return {
            "cluster_id": cluster.cluster_id,
            "trust_domain": cluster.trust_domain,
            "manager": self.config.name,
            "lock": "unlocked",
            "leader": engine.leader,
            "managers": managers,
            "engine": {
                "kind": engine.kind,
                "version": engine.version,
                "size_bytes": engine.size_bytes,
                "quota_bytes": engine.quota_bytes,
                "alarms": list(engine.alarms),
            },
            "key_epoch": self.store.keyring.current,
            "nodes": nodes,
            "secrets": len(self.store.view.secrets),
            "services": len(self.store.view.services),
            "sessions_here": self.presence.connected(),
            "findings": [*self._findings(engine, alive, nodes), *findings(expiring)],
        }

    async def managers(self, principal: Principal) -> list[dict[str, JSON]]:
        """Return every manager."""
        self.requests.check(principal, Action.MANAGER_LIST, Resource("manager"))
        engine = await self.started.engine.status()
        alive = await self._alive()
        return [self._manager(record, engine, alive) for record in self._records()]

    def _records(self) -> list[ManagerRecord]:
        records = [stored.record for stored in self.store.view.managers.values()]
        return sorted(
            (r for r in records if r.state is not ManagerState.REMOVED),
            key=lambda record: record.name,
        )

    async def _alive(self) -> frozenset[str]:
        try:
            holders = await self.started.engine.holders()
        except ClusterError:
            return frozenset({self.presence.manager_id})
        return frozenset(
            name.removeprefix(ALIVE_PREFIX) for name in holders if name.startswith(ALIVE_PREFIX)
        )

    def _manager(
        self, record: ManagerRecord, engine: EngineStatus, alive: frozenset[str]
    ) -> dict[str, JSON]:
        if record.state is ManagerState.PENDING:
            state = "joining"
        elif record.state is ManagerState.REMOVING:
            state = "removing"
        else:
            state = "ready" if record.id in alive else "down or locked"
        return {
            "id": record.id,
            "name": record.name,
            "state": state,
            "leader": engine.leader == record.name or engine.kind == "sqlite",
            "api_address": record.api_address,
            "join_address": record.join_address,
            "joined_at": moment(record.joined_at),
        }

    def _nodes(self) -> dict[str, JSON]:
        counts = dict.fromkeys((state.value for state in NodeState), 0)
        for stored in self.store.view.nodes.values():
            if stored.record.revoked_at is None:
                status = self.store.view.node_statuses.get(stored.record.id)
                counts[(status.record.state if status else NodeState.UNKNOWN).value] += 1
        return dict(counts)

    def _findings(
        self, engine: EngineStatus, alive: frozenset[str], nodes: dict[str, JSON]
    ) -> Iterable[dict[str, JSON]]:
        """Yield what is unhealthy or weak, and why."""
        yield from self._managers_found(alive)
        for alarm in engine.alarms:
            yield _unhealthy(f"the engine raised {alarm}; see docs/how-to/engine-full.md")
        if engine.quota_bytes and engine.size_bytes > QUOTA_WARNING * engine.quota_bytes:
            yield _weak("the engine's data fill more than three quarters of its quota")
        if self.config.unlock_key_file is not None:
            yield _weak(
                f"{self.config.name} unlocks by itself with a provider file; whoever reads that "
                "file opens its seal file"
            )
        for fault in self.store.view.faults:
            yield _unhealthy(
                f"stored data of kind {fault.kind} failed its integrity check; "
                "see docs/how-to/integrity.md"
            )
        yield from self._exposed()
        yield from self._rotating()
        if nodes[NodeState.DOWN.value]:
            yield _unhealthy(f"nodes down: {nodes[NodeState.DOWN.value]}; see `strongroom node ls`")
        yield from self._weak_nodes()
        yield from self._paused()

    def _managers_found(self, alive: frozenset[str]) -> Iterable[dict[str, JSON]]:
        active = [r for r in self._records() if r.state is ManagerState.ACTIVE]
        for record in active:
            if record.id not in alive:
                yield _unhealthy(
                    f"manager {record.name} is down or locked; start it, then run "
                    "`strongroom unlock` on it"
                )
        for record in self._records():
            if record.state is ManagerState.REMOVING:
                yield _weak(
                    f"manager {record.name} is being removed, and its engine member still votes; "
                    "it goes as soon as the others are connected"
                )
        if len(active) == TWO:
            yield _weak("two managers tolerate no failure; add a third, or remove one")
        elif len(active) == 1:
            yield _weak(
                "one manager tolerates no failure; a cluster for production has three or five"
            )

    def _exposed(self) -> Iterable[dict[str, JSON]]:
        exposed = sum(bool(must_rotate(s.record)) for s in self.store.view.secrets.values())
        if exposed:
            yield _unhealthy(
                f"secrets to rotate because a node that held them was evicted: {exposed}; see "
                "`strongroom secret ls`"
            )

    def _rotating(self) -> Iterable[dict[str, JSON]]:
        failing = failing_rotations(self.store.view)
        if failing:
            yield _unhealthy(
                f"secrets whose rotation failed or is refused: {failing}; their old versions stay; "
                "see `strongroom secret ls`"
            )

    def _paused(self) -> Iterable[dict[str, JSON]]:
        # Not by name: a deployer sees the findings of everybody's objects. Records that are not
        # what was written are a finding of their own.
        with suppress(IntegrityError):
            rollouts = self.store.view.rollouts.values()
            paused = sum(one.record.state is RolloutState.PAUSED for one in rollouts)
            if paused:
                yield _unhealthy(
                    f"{paused} rollouts wait for a decision; see `strongroom rollout ls`"
                )

    def _weak_nodes(self) -> Iterable[dict[str, JSON]]:
        for stored in self.store.view.node_statuses.values():
            node = self.store.view.nodes.get(stored.record.id)
            if node is None or node.record.revoked_at is not None:
                continue
            if stored.record.strength == "weak":
                yield _weak(
                    f"node {node.record.name} mounts on tmpfs it could only prove weak; "
                    "run `strongroom-agent doctor` there"
                )


def _weak(why: str) -> dict[str, JSON]:
    return {"level": "weak", "why": why}


def _unhealthy(why: str) -> dict[str, JSON]:
    return {"level": "unhealthy", "why": why}
