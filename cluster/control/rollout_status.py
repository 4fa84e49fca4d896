"""Rollouts as they are shown, and how far one has come, for whoever waits for it.

The placement duty persists what it judged. Whoever waits for a change that went to all tasks at
once is told what the agents' reports say now, by any manager, even while the duty changes hands; of
one that goes step by step the record says which step was taken.
"""

from cluster.control.moments import moment
from cluster.control.policy import Action, Principal, Resource, in_reach
from cluster.control.requests import JSON, Requests
from cluster.control.rollout_steps import can_go_back, step
from cluster.control.rollouts import NO_ROLLOUT, facts_of
from cluster.control.secrets import secret_resource
from cluster.control.services import service_resource
from cluster.control.update_draft import update_shown
from cluster.protocol.errors import NotFound
from cluster.store.records import (
    RolloutKind,
    RolloutRecord,
    RolloutState,
    RolloutTarget,
    TargetState,
)
from cluster.store.view import Stored, View

_REACHED = frozenset({TargetState.DONE})
_BACK = frozenset({TargetState.BACK})


class RolloutStatus:
    """What operators may ask of rollouts."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def inspect(self, principal: Principal, rollout_id: str) -> dict[str, JSON]:
        """Return a rollout with `done`, `reached`, `total` and each of its tasks. Raises NotFound.

        `done` is also true of one that a newer rollout took over or that is paused: waiting longer
        would change nothing.
        """
        view = self._requests.store.view
        stored = view.rollouts.get(rollout_id)
        if stored is None:
            self._requests.check(principal, Action.ROLLOUT_INSPECT, Resource("rollout"))
            raise NotFound(NO_ROLLOUT)
        now_s = self._now_s()
        rollout = stored.record
        self._requests.check(principal, Action.ROLLOUT_INSPECT, rollout_resource(view, rollout))
        if rollout.finished_at is None and rollout.policy is None:
            rollout = step(rollout, facts_of(view), now_s)
        targets: list[JSON] = [_target_shown(target, view) for target in rollout.targets]
        return {**_shown(stored, rollout, now_s), "targets": targets}

    def list(self, principal: Principal) -> list[dict[str, JSON]]:
        """Return the rollouts in the caller's reach, the newest first, without their tasks."""
        self._requests.check(principal, Action.ROLLOUT_LIST, Resource("rollout"))
        view = self._requests.store.view
        stored = sorted(
            view.rollouts.values(), key=lambda s: (s.record.started_at, s.record.id), reverse=True
        )
        now_s = self._now_s()
        return [
            _shown(one, one.record, now_s)
            for one in stored
            if in_reach(principal, rollout_resource(view, one.record).labels)
        ]

    def _now_s(self) -> float:
        return self._requests.clock.now().timestamp()


def rollout_resource(view: View, rollout: RolloutRecord) -> Resource:
    """Return the object a rollout changes, so that its labels decide who may look."""
    if rollout.what is RolloutKind.ROTATE:
        return secret_resource(view, rollout.name)
    return service_resource(view, rollout.name)


def _shown(stored: Stored[RolloutRecord], rollout: RolloutRecord, now_s: float) -> dict[str, JSON]:
    concerned = [t for t in rollout.targets if t.state is not TargetState.GONE]
    going_back = rollout.state in {RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK}
    wanted = _BACK if going_back or rollout.back_spec_number is not None else _REACHED
    ended = rollout.finished_at or now_s
    return {
        "id": rollout.id,
        "what": rollout.what.value,
        "name": rollout.name,
        "version": rollout.version,
        "spec_number": rollout.spec_number,
        "state": rollout.state.value,
        "reason": rollout.reason,
        "step": stored.generation,
        "started_at": moment(rollout.started_at),
        "started_by": rollout.started_by,
        "finished_at": moment(rollout.finished_at),
        "superseded_by": rollout.superseded_by,
        "policy": update_shown(rollout.policy) if rollout.policy is not None else None,
        "before": rollout.before_version or rollout.before_spec_number,
        "can_go_back": rollout.policy is not None and can_go_back(rollout),
        "done": rollout.finished_at is not None or rollout.state is RolloutState.PAUSED,
        "reached": sum(target.state in wanted for target in concerned),
        "total": len(concerned),
        "elapsed_s": max(0.0, round(ended - rollout.started_at, 4)),
    }


def _target_shown(target: RolloutTarget, view: View) -> dict[str, JSON]:
    service = view.services.get(target.service_id)
    node = view.nodes.get(target.node_id)
    return {
        "service": service.record.name if service is not None else target.service_id,
        "node": node.record.name if node is not None else target.node_id,
        "state": target.state.value,
        "released": target.released_at is not None,
        "released_at": moment(target.released_at),
        "at": moment(target.at) if target.at else None,
        "error": target.error,
    }
