"""How a change goes out: the policy of a rollout from those of the services it concerns. Pure.

A rotation concerns every service that follows the secret: the strictest of what they ask for holds
for all of them, unless who rotates says otherwise for this once. Source:
docs/explanation/rollouts.md.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from cluster.control.update_draft import UpdateDraft, update_of
from cluster.store.records import FailureAction, ServiceSpec, UpdatePolicy

_STRICTNESS: Final = (FailureAction.CONTINUE, FailureAction.PAUSE, FailureAction.ROLLBACK)


class PolicyChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for one rollout instead of what its services ask for; None: nothing said."""

    parallelism: int | None = None
    delay_s: float | None = None
    canary: int | None = None
    monitor_s: float | None = None
    patience_s: float | None = None
    on_failure: FailureAction | None = None
    at_once: bool = False
    """To all tasks at once, unjudged: a way back does not wait."""


UNCHANGED: Final = PolicyChange()
AT_ONCE: Final = PolicyChange(at_once=True)


def policy_for(
    specs: Iterable[ServiceSpec], change: PolicyChange = UNCHANGED
) -> UpdatePolicy | None:
    """Return the policy of a rollout over services of these specs; None: to all at once, unjudged.

    Raises InvalidRequest for a change that is out of range.
    """
    if change.at_once:
        return None
    known = tuple(specs)
    policy = _changed(_strictest([spec.update for spec in known]), change)
    checked = any(spec.health is not None for spec in known)
    gated = policy.canary or policy.parallelism or policy.delay_s or policy.monitor_s
    if gated or checked or policy.on_failure is not FailureAction.PAUSE:
        return policy
    return None


def _strictest(policies: list[UpdatePolicy]) -> UpdatePolicy:
    if not policies:
        return UpdatePolicy()
    limited = [policy.parallelism for policy in policies if policy.parallelism]
    return UpdatePolicy(
        parallelism=min(limited, default=0),
        delay_s=max(policy.delay_s for policy in policies),
        canary=max(policy.canary for policy in policies),
        monitor_s=max(policy.monitor_s for policy in policies),
        patience_s=max(policy.patience_s for policy in policies),
        on_failure=max((policy.on_failure for policy in policies), key=_STRICTNESS.index),
    )


def _changed(policy: UpdatePolicy, change: PolicyChange) -> UpdatePolicy:
    """Return the policy with what was said for this once, checked as a service's own is."""

    def said(value: int | None, before: int) -> int:
        return before if value is None else value

    def said_s(value: float | None, before: float) -> float:
        return before if value is None else value

    return update_of(
        UpdateDraft(
            parallelism=said(change.parallelism, policy.parallelism),
            delay_s=said_s(change.delay_s, policy.delay_s),
            canary=said(change.canary, policy.canary),
            monitor_s=said_s(change.monitor_s, policy.monitor_s),
            patience_s=said_s(change.patience_s, policy.patience_s),
            on_failure=change.on_failure or policy.on_failure,
        )
    )
