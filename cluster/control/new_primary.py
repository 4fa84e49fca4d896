"""A secret gets another primary version: the steps, and the rollout that brings it to the nodes.

Pure. The one way a primary changes, whoever asks: a rotation, a rollback, a schedule. The value of
a new version is its caller's to store, in the same transaction.
"""

from dataclasses import dataclass

from cluster.control.rollout_policy import UNCHANGED, PolicyChange
from cluster.control.rollout_start import rotation_rollout
from cluster.control.rollouts import supersede
from cluster.store.records import RolloutRecord, SecretRecord
from cluster.store.steps import Create, Replace, Step
from cluster.store.view import Stored, View


@dataclass(frozen=True, slots=True)
class NewPrimary:
    """What is to be written, and the rollout in it."""

    rollout: RolloutRecord
    steps: tuple[Step, ...]


def new_primary(
    view: View,
    stored: Stored[SecretRecord],
    after: SecretRecord,
    rollout_id: str,
    by: str,
    change: PolicyChange = UNCHANGED,
) -> NewPrimary:
    """Return how `stored` becomes `after`, whose primary is another one; `by`: who asked.

    `change`: what holds for this rollout instead of what the services ask for.
    """
    rollout = rotation_rollout(view, stored.record, after, rollout_id, by, change)
    steps: tuple[Step, ...] = (Replace(stored, after), Create(rollout), *supersede(view, rollout))
    return NewPrimary(rollout, steps)
