"""Managers on their way out: decided first, taken out of the engine afterwards.

`begin` records the decision: from then on nobody believes the manager's certificate, and it is told
to no agent. `finish` notes that its engine member is out and frees its name. What lies between them
touches the engine and may be repeated by any other manager (`cluster.departures`). Owns the rule of
what may be removed; it knows who shows a sign of life only from its caller.
"""

from collections.abc import Set as AbstractSet
from typing import Final

import msgspec

from cluster.control.issuing import active_managers
from cluster.control.policy import Action, Principal, Resource
from cluster.control.requests import JSON, Answer, Decision, RequestContext, Requests
from cluster.protocol.errors import Conflict, NotFound
from cluster.protocol.ids import ManagerId
from cluster.store.records import Kind, ManagerRecord, ManagerState, name_id
from cluster.store.steps import Remove, Replace, Require, Step
from cluster.store.view import Stored, View

NAME_SHOWN: Final = 64


class ManagerRemoval:
    """Removes managers."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def check(self, principal: Principal, name: str) -> None:
        """Raise PermissionDenied for whoever may not remove a manager."""
        self._requests.check(principal, Action.MANAGER_REMOVE, _resource(name))

    async def begin(
        self, context: RequestContext, name: str, alive: AbstractSet[ManagerId]
    ) -> Answer:
        """Decide that a manager goes, by its name or id; deciding again does no harm.

        `alive`: the managers that show a sign of life. Raises NotFound, and Conflict where those
        that stay would be no majority.
        """

        def decide(view: View) -> Decision:
            stored = find_manager(view, name)
            staying = [r for r in active_managers(view) if r.id != stored.record.id]
            if stored.record.state is ManagerState.REMOVING:
                return Decision((), _answer(stored.record, staying))
            check_staying(stored.record, staying, alive)
            leaving = msgspec.structs.replace(
                stored.record, state=ManagerState.REMOVING, serials=(), pending=None
            )
            # Two removals decided at once would each count on the manager that the other removes.
            counted_on = [Require(_get(view, record.id)) for record in staying]
            return Decision([Replace(stored, leaving), *counted_on], _answer(leaving, staying))

        return await self._requests.run_once(
            context, Action.MANAGER_REMOVE, _resource(name), decide
        )

    async def finish(self, principal: Principal, manager_id: ManagerId) -> None:
        """Note that a manager's engine member is out, and free its name; once more does no harm."""

        def decide(view: View) -> Decision:
            stored = view.managers.get(manager_id)
            if stored is None or stored.record.state is not ManagerState.REMOVING:
                return Decision((), {})
            removed = msgspec.structs.replace(stored.record, state=ManagerState.REMOVED)
            steps: list[Step] = [Replace(stored, removed)]
            claim = view.names.get(name_id(Kind.MANAGER, removed.name))
            if claim is not None and claim.record.owner == removed.id:
                steps.append(Remove(claim))
            return Decision(steps, {})

        resource = Resource(Kind.MANAGER.value, manager_id)
        await self._requests.admit(principal, Action.MANAGER_GONE, resource, decide)


def check_staying(
    leaving: ManagerRecord, staying: list[ManagerRecord], alive: AbstractSet[ManagerId]
) -> None:
    """Raise Conflict unless the managers that stay are there and a majority of them lives.

    Whether the one that leaves lives makes no difference: afterwards only the others vote.
    """
    if not staying:
        raise Conflict("this is the last manager; it cannot be removed")
    down = sorted(record.name for record in staying if record.id not in alive)
    up, needed = len(staying) - len(down), len(staying) // 2 + 1
    if up < needed:
        raise Conflict(
            f"without {leaving.name} there would be {up} of {len(staying)} managers, and a "
            f"majority takes {needed}; start and unlock {', '.join(down)} first, or remove what "
            "will not come back"
        )


def leaving_managers(view: View) -> list[ManagerRecord]:
    """Return the managers whose engine members are still to be taken out, by id."""
    records = (stored.record for stored in view.managers.values())
    return sorted((r for r in records if r.state is ManagerState.REMOVING), key=lambda r: r.id)


def find_manager(view: View, name: str) -> Stored[ManagerRecord]:
    """Return the manager of a name or id that is not gone; there are few. Raises NotFound."""
    for stored in view.managers.values():
        named = name in {stored.record.name, stored.record.id}
        if named and stored.record.state is not ManagerState.REMOVED:
            return stored
    raise NotFound("there is no such manager; see `strongroom manager ls`")


def _get(view: View, manager_id: str) -> Stored[ManagerRecord]:
    stored = view.managers.get(manager_id)
    if stored is None:
        raise NotFound
    return stored


def _resource(name: str) -> Resource:
    return Resource(Kind.MANAGER.value, name[:NAME_SHOWN])


def _answer(record: ManagerRecord, staying: list[ManagerRecord]) -> dict[str, JSON]:
    return {
        "id": record.id,
        "name": record.name,
        "state": record.state.value,
        "managers_left": len(staying),
    }
