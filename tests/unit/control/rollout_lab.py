"""A service on three nodes, the duty that moves its tasks, and reports from their agents."""

from typing import Any

import msgspec

from cluster.control.rollout_actions import RolloutActions
from cluster.control.rollout_policy import PolicyChange
from cluster.control.rollout_status import RolloutStatus
from cluster.control.service_draft import ServiceDraft
from cluster.control.update_draft import UpdateDraft
from cluster.protocol.ids import NodeId, SecretId, ServiceId
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import (
    FailureAction,
    RolloutRecord,
    TaskRecord,
    VersionState,
    task_id,
)
from tests.unit.control.lab import ControlLab, drafted

CANARY = UpdateDraft(canary=1, parallelism=1, on_failure=FailureAction.ROLLBACK)


class Fleet:
    """Three nodes, each with a task of `app`, and the duty that moves them."""

    def __init__(self, lab: ControlLab) -> None:
        self.lab = lab
        self.duty = lab.duty()
        self.nodes: list[NodeId] = []
        self.actions = RolloutActions(lab.requests)
        self.status = RolloutStatus(lab.requests)

    async def set_up(self, update: UpdateDraft = CANARY, **more: object) -> None:
        """Place `app` on three nodes with version 1 of `db`."""
        await self.lab.secret("db")
        self.nodes = [await self.lab.join(f"n{number}") for number in range(3)]
        await self.lab.services.create(
            self.lab.context(), drafted("app", "db", is_global=True, update=update, **more)
        )
        await self.settle()
        await self.report()

    def draft(self, *sources: str) -> ServiceDraft:
        """Return another spec of `app`, under the same policy."""
        return drafted("app", *sources, is_global=True, update=CANARY)

    async def settle(self) -> None:
        await self.lab.settle(self.duty)

    async def rotate(self, change: PolicyChange | None = None) -> str:
        """Rotate `db` and return the rollout."""
        more: dict[str, Any] = {"policy": change} if change is not None else {}
        answer = await self.lab.secrets.rotate(
            self.lab.context(), "db", SecretBytes(b"next"), **more
        )
        await self.settle()
        return str(answer.body["rollout"])

    def task(self, node: NodeId) -> TaskRecord:
        service = self.lab.view.service_by_name("app")
        assert service is not None
        stored = self.lab.view.tasks.get(task_id(ServiceId(service.record.id), node))
        assert stored is not None
        return stored.record

    def assigned(self, node: NodeId) -> int:
        """Return the version of `db` that a node is to hold."""
        secret = self.lab.view.secret_by_name("db")
        assert secret is not None
        held = self.lab.view.holds.version(self.task(node), SecretId(secret.record.id))
        return held or secret.record.primary.number

    def held(self) -> list[int]:
        return sorted(self.assigned(node) for node in self.nodes)

    async def report(self, *nodes: NodeId, **fields: object) -> None:
        """Have nodes carry out what they are assigned, and let the duty look."""
        for node in nodes or self.nodes:
            await self.lab.mounted("app", node, {"db": self.assigned(node)})
            stored = self.lab.view.task_statuses.get(self.task(node).id)
            assert stored is not None
            held = self.lab.view.holds.spec(self.task(node))
            changes = {"spec_number": held.number} if held is not None else {}
            await self.lab.write(msgspec.structs.replace(stored.record, **changes, **fields))
        await self.settle()

    def rollout(self, rollout: str) -> RolloutRecord:
        stored = self.lab.view.rollouts.get(rollout)
        assert stored is not None
        return stored.record

    def changed(self) -> NodeId:
        """Return the node that is assigned another version than the others."""
        numbers = [self.assigned(node) for node in self.nodes]
        return self.nodes[numbers.index(max(numbers))]

    def version_states(self) -> dict[int, VersionState]:
        secret = self.lab.view.secret_by_name("db")
        assert secret is not None
        return {version.number: version.state for version in secret.record.versions}
