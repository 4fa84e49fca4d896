"""What operators do with a rollout under way: pause it, let it go on, take it back.

A rollout that went to all tasks at once has nothing left to stop; what it brought is undone by
`secret rollback` and `service rollback`.
"""

from collections.abc import Callable

import msgspec

from cluster.control.policy import Action, Principal, Resource
from cluster.control.requests import Answer, Decision, RequestContext, Requests
from cluster.control.rollout_rollback import rollback_steps, spec_before
from cluster.control.rollout_status import rollout_resource
from cluster.control.rollout_targets import released
from cluster.control.rollouts import NO_ROLLOUT
from cluster.control.services import check_reach
from cluster.protocol.errors import Conflict, NotFound
from cluster.store.records import RolloutKind, RolloutRecord, RolloutState, TargetState
from cluster.store.steps import Replace, Step
from cluster.store.view import Stored, View

_Decide = Callable[[View, Stored[RolloutRecord]], list[Step]]


class RolloutActions:
    """What operators may do with rollouts."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    async def pause(self, context: RequestContext, rollout_id: str) -> Answer:
        """Release nothing more until somebody resumes it. Raises NotFound, Conflict."""

        def decide(_view: View, stored: Stored[RolloutRecord]) -> list[Step]:
            _require(stored.record, RolloutState.RUNNING)
            reason = f"paused by {context.principal.name}"
            return [_changed(stored, state=RolloutState.PAUSED, reason=reason)]

        return await self._run(context, Action.ROLLOUT_PAUSE, rollout_id, decide)

    async def resume(self, context: RequestContext, rollout_id: str) -> Answer:
        """Let a paused rollout go on; what failed gets its time once more. Raises NotFound,
        Conflict."""

        def decide(_view: View, stored: Stored[RolloutRecord]) -> list[Step]:
            _require(stored.record, RolloutState.PAUSED)
            now_s = self._now_s()
            targets = tuple(
                released(target, now_s) if target.state is TargetState.FAILED else target
                for target in stored.record.targets
            )
            return [_changed(stored, state=RolloutState.RUNNING, reason="", targets=targets)]

        return await self._run(context, Action.ROLLOUT_RESUME, rollout_id, decide)

    async def rollback(self, context: RequestContext, rollout_id: str) -> Answer:
        """Take back what it brought so far. Raises NotFound, Conflict, InvalidReference."""

        def decide(view: View, stored: Stored[RolloutRecord]) -> list[Step]:
            _require(stored.record, RolloutState.RUNNING, RolloutState.PAUSED)
            _check_rights(view, context.principal, stored.record)
            reason = f"taken back by {context.principal.name}"
            return rollback_steps(view, stored, reason, self._now_s(), context.request_id)

        return await self._run(context, Action.ROLLOUT_ROLLBACK, rollout_id, decide)

    async def _run(
        self, context: RequestContext, action: Action, rollout_id: str, steps_of: _Decide
    ) -> Answer:
        def resources(view: View) -> list[Resource]:
            stored = view.rollouts.get(rollout_id)
            if stored is None:
                return [Resource("rollout")]
            return [rollout_resource(view, stored.record)]

        def decide(view: View) -> Decision:
            stored = view.rollouts.get(rollout_id)
            if stored is None:
                raise NotFound(NO_ROLLOUT)
            rollout = stored.record
            steps = steps_of(view, stored)
            return Decision(steps, {"name": rollout.name, "rollout": rollout.id})

        return await self._requests.run_once(context, action, resources, decide)

    def _now_s(self) -> float:
        return self._requests.clock.now().timestamp()


def _changed(stored: Stored[RolloutRecord], **fields: object) -> Replace:
    return Replace(stored, msgspec.structs.replace(stored.record, **fields))


def _require(rollout: RolloutRecord, *states: RolloutState) -> None:
    """Raise Conflict unless a rollout may be stopped, and stands in one of `states`."""
    if rollout.finished_at is not None or rollout.state not in states:
        raise Conflict(
            f"the rollout is {rollout.state.value}, not {' or '.join(states)}; "
            "see `strongroom rollout inspect`"
        )
    if rollout.policy is None:
        noun = "secret" if rollout.what is RolloutKind.ROTATE else "service"
        raise Conflict(
            "the change went to all tasks at once, so nothing is left to stop; "
            f"undo it with `strongroom {noun} rollback {rollout.name}`"
        )


def _check_rights(view: View, principal: Principal, rollout: RolloutRecord) -> None:
    """Raise PermissionDenied unless the caller may touch all that the spec before holds."""
    if rollout.what is RolloutKind.SERVICE and rollout.before_spec_number is not None:
        check_reach(view, principal, spec_before(rollout))
