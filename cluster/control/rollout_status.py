"""How far a rollout has come, for whoever waits for it.

The placement duty persists what it judged. Whoever waits is told what the agents' reports say now,
by any manager: a rotation is done when its files are in place, even while the duty changes hands.
"""

from cluster.control.policy import Action, Principal, Resource
from cluster.control.requests import JSON, Requests
from cluster.control.rollouts import advanced, facts_of, shown
from cluster.control.secrets import secret_resource
from cluster.control.services import service_resource
from cluster.protocol.errors import NotFound
from cluster.store.records import RolloutKind, RolloutRecord, TargetState
from cluster.store.view import View


class RolloutStatus:
    """What operators may ask of rollouts."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def inspect(self, principal: Principal, rollout_id: str) -> dict[str, JSON]:
        """Return a rollout with `done`, `reached`, `total` and the tasks it has not reached. Raises
        NotFound.

        `done` is also true of one that a newer rollout took over: waiting longer would change
        nothing.
        """
        view = self._requests.store.view
        stored = view.rollouts.get(rollout_id)
        if stored is None:
            self._requests.check(principal, Action.ROLLOUT_INSPECT, Resource("rollout"))
            raise NotFound("there is no such rollout; finished ones are kept for a while only")
        now_s = self._requests.clock.now().timestamp()
        rollout = stored.record
        if rollout.finished_at is None:
            rollout = advanced(rollout, facts_of(view), now_s)
        self._requests.check(principal, Action.ROLLOUT_INSPECT, _resource(view, rollout))
        reached = [t for t in rollout.targets if t.state is TargetState.DONE]
        concerned = [t for t in rollout.targets if t.state is not TargetState.GONE]
        ended = rollout.finished_at or now_s
        return {
            **shown(rollout, view),
            "done": rollout.finished_at is not None,
            "reached": len(reached),
            "total": len(concerned),
            "elapsed_s": max(0.0, round(ended - rollout.started_at, 4)),
        }


def _resource(view: View, rollout: RolloutRecord) -> Resource:
    """Return the object a rollout changes, so that its labels decide who may look."""
    if rollout.what is RolloutKind.ROTATE:
        return secret_resource(view, rollout.name)
    return service_resource(view, rollout.name)
