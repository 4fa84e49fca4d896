"""What the records say about a rotation that is under way. Pure."""

from cluster.control.rotation_steps import Facts
from cluster.control.versions import pinned_versions
from cluster.store.records import (
    NodeState,
    RolloutRecord,
    RolloutTarget,
    RotationRecord,
    TargetState,
)
from cluster.store.view import View

_NEEDS_IT: frozenset[TargetState] = frozenset(
    {TargetState.PENDING, TargetState.RELEASED, TargetState.FAILED}
)


def facts_for(view: View, rotation: RotationRecord) -> Facts:
    """Return what the next move of a rotation is decided from."""
    stored = view.secrets.get(rotation.secret_id)
    found = view.rollouts.get(rotation.rollout) if rotation.rollout is not None else None
    rollout = found.record if found is not None else None
    services = [s.record for s in view.services_referring_to(rotation.secret_id)]
    return Facts(
        secret=stored.record if stored is not None else None,
        moving=any(
            other.record.secret_id == rotation.secret_id and other.record.finished_at is None
            for other in view.rollouts.values()
        ),
        reached=rollout is None or _has_reached(view, rollout),
        pinned=pinned_versions(rotation.secret_id, services),
    )


def _has_reached(view: View, rollout: RolloutRecord) -> bool:
    """Return whether every node that is up has it; one that is down gets it when it is back."""
    if rollout.finished_at is not None:
        return True
    return not any(target.state in _NEEDS_IT and _is_up(view, target) for target in rollout.targets)


def _is_up(view: View, target: RolloutTarget) -> bool:
    status = view.node_statuses.get(target.node_id)
    return status is not None and status.record.state is NodeState.READY
