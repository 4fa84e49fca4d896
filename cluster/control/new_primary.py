"""A secret gets another primary version: the steps, and the rollout that brings it to the nodes.

Pure. The one way a primary changes, whoever asks: a rotation, a rollback, a schedule. The value of
a new version is its caller's to store, in the same transaction.
"""

from dataclasses import dataclass

from cluster.control.rollouts import supersede, targets_of
from cluster.control.versions import follows_primary
from cluster.protocol.ids import SecretId, ServiceId
from cluster.store.records import RolloutKind, RolloutRecord, SecretRecord
from cluster.store.steps import Create, Replace, Step
from cluster.store.view import Stored, View


@dataclass(frozen=True, slots=True)
class NewPrimary:
    """What is to be written, and the rollout in it."""

    rollout: RolloutRecord
    steps: tuple[Step, ...]


def new_primary(
    view: View, stored: Stored[SecretRecord], after: SecretRecord, rollout_id: str, by: str
) -> NewPrimary:
    """Return how `stored` becomes `after`, whose primary is another one; `by`: who asked."""
    rollout = _rollout(view, after, rollout_id, by)
    steps: tuple[Step, ...] = (Replace(stored, after), Create(rollout), *supersede(view, rollout))
    return NewPrimary(rollout, steps)


def _rollout(view: View, secret: SecretRecord, rollout_id: str, by: str) -> RolloutRecord:
    secret_id = SecretId(secret.id)
    followers = [
        service.record
        for service in view.services_referring_to(secret_id)
        if follows_primary(secret_id, service.record.spec)
    ]
    targets = targets_of(
        task.record
        for service in followers
        for task in view.tasks_of_service(ServiceId(service.id))
    )
    return RolloutRecord(
        id=rollout_id,
        what=RolloutKind.ROTATE,
        name=secret.name,
        secret_id=secret_id,
        version=secret.primary.number,
        targets=targets,
        started_at=secret.updated_at,
        started_by=by,
        finished_at=None if targets else secret.updated_at,
    )
