"""Nodes as an operator handles them: list, inspect, label, drain, remove.

A removed node's record stays, revoked, so that the node is told so; its name is free at once.
"""

from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from cluster.control.labels import changed_labels
from cluster.control.moments import moment
from cluster.control.pages import WHOLE, Page, Paging, page_of
from cluster.control.policy import Action, Principal, Resource
from cluster.control.requests import JSON, Answer, Decision, RequestContext, Requests
from cluster.control.task_history import Ending, remembered
from cluster.protocol.errors import NodeNotFound
from cluster.protocol.ids import NodeId, is_id
from cluster.store.records import (
    Availability,
    EndedState,
    Kind,
    NodeRecord,
    NodeState,
    name_id,
)
from cluster.store.steps import Remove, Replace, Step
from cluster.store.view import Stored, View

TASKS_PER_WRITE: Final = 30
"""Tasks that go with their node at once; placement removes the rest, which nobody serves."""


class Nodes:
    """What operators may do with nodes."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def inspect(self, principal: Principal, name: str) -> dict[str, JSON]:
        """Return one node, by name or id. Raises NodeNotFound."""
        self._requests.check(principal, Action.NODE_INSPECT, _resource(name))
        view = self._requests.store.view
        node = get_node(view, name).record
        return {**_shown(view, node), **_behind(view, NodeId(node.id))}

    async def update(
        self,
        context: RequestContext,
        name: str,
        *,
        add_labels: Mapping[str, str],
        remove_labels: Collection[str] = (),
        availability: Availability | None = None,
    ) -> Answer:
        """Change a node's labels and whether it may be given tasks; draining moves its tasks."""
        by = context.principal.name

        def decide(view: View) -> Decision:
            stored = get_node(view, name)
            after = msgspec.structs.replace(
                stored.record,
                labels=changed_labels(stored.record.labels, add_labels, remove_labels),
                availability=availability or stored.record.availability,
                availability_by=by if availability is not None else stored.record.availability_by,
            )
            return Decision(
                [Replace(stored, after)],
                {
                    "id": after.id,
                    "name": after.name,
                    "labels": after.labels,
                    "availability": after.availability.value,
                },
            )

        return await self._requests.run_once(context, Action.NODE_UPDATE, _resource(name), decide)

    async def remove(self, context: RequestContext, name: str) -> Answer:
        """Evict a node: from this revision on it is issued nothing and renewed never.

        Cutting its connections and wiping it is what the dispatcher does when it sees the record.
        """

        def decide(view: View) -> Decision:
            stored = get_node(view, name)
            now_s = self._requests.clock.now().timestamp()
            revoked = msgspec.structs.replace(stored.record, revoked_at=now_s, join=None)
            tasks = view.tasks_of_node(NodeId(revoked.id))[:TASKS_PER_WRITE]
            reason = f"node {revoked.name} was evicted by {context.principal.name}"
            endings = [Ending(task.record, reason, _ended(view, revoked.id)) for task in tasks]
            steps: list[Step] = [
                Replace(stored, revoked),
                *(Remove(task) for task in tasks),
                *remembered(view, endings, now_s),
            ]
            claim = view.names.get(name_id(Kind.NODE, revoked.name))
            if claim is not None and claim.record.owner == revoked.id:
                steps.append(Remove(claim))
            return Decision(steps, {"id": revoked.id, "name": revoked.name})

        return await self._requests.run_once(context, Action.NODE_REMOVE, _resource(name), decide)

    def list(self, principal: Principal, paging: Paging = WHOLE) -> Page:
        """Return the nodes that are not removed, by name, or a page of them; raises as
        `Secrets.list`."""
        self._requests.check(principal, Action.NODE_LIST, Resource(Kind.NODE.value))
        view = self._requests.store.view
        return page_of(
            view.nodes,
            paging,
            "",
            lambda node: node.revoked_at is None,
            lambda stored: _shown(view, stored.record),
        )


def get_node(view: View, name: str) -> Stored[NodeRecord]:
    """Return the node of a name or id, unless it was removed. Raises NodeNotFound."""
    stored = view.node_by_name(name)
    if stored is None and is_id(name):
        stored = view.nodes.get(name)
    if stored is None or stored.record.revoked_at is not None:
        raise NodeNotFound(f"there is no node {name[:64]!r}; see `strongroom node ls`")
    return stored


def _ended(view: View, node_id: str) -> EndedState:
    """Return how the tasks of an evicted node end: is it there to be told?"""
    status = view.node_statuses.get(node_id)
    ready = status is not None and status.record.state is NodeState.READY
    return EndedState.SHUTDOWN if ready else EndedState.ORPHANED


def _behind(view: View, node_id: NodeId) -> dict[str, JSON]:
    """Return how many versions the node was handed and did not report written, and since when."""
    issued = [one.record.issued_at for one in view.receipts_waiting(node_id)]
    return {
        "unacknowledged": len(issued),
        "unacknowledged_since": moment(min(issued)) if issued else None,
    }


def _resource(name: str) -> Resource:
    return Resource(Kind.NODE.value, name[:64])


def _shown(view: View, node: NodeRecord) -> dict[str, JSON]:
    stored = view.node_statuses.get(node.id)
    status = stored.record if stored is not None else None
    return {
        "id": node.id,
        "name": node.name,
        "labels": node.labels,
        "availability": node.availability.value,
        "state": (status.state if status is not None else NodeState.UNKNOWN).value,
        "state_since": moment(status.since) if status is not None else None,
        "strength": status.strength if status is not None else "",
        "mounts": status.mounts if status is not None else "",
        "address": status.address if status is not None else "",
        "agent_version": status.agent_version if status is not None else "",
        "manager": status.manager_id if status is not None else None,
        "tasks": len(view.tasks_of_node(NodeId(node.id))),
        "created_at": moment(node.created_at),
        "certificate_expires_at": moment(node.not_after) if node.not_after else None,
    }
