"""Which policy a rollout goes by."""

import pytest

from cluster.control.rollout_policy import PolicyChange, policy_for
from cluster.protocol.errors import InvalidRequest
from cluster.store.records import FailureAction, ServiceSpec, UpdatePolicy


def test_the_strictest_policy_of_the_services_holds() -> None:
    specs = [
        ServiceSpec(update=UpdatePolicy(parallelism=5, on_failure=FailureAction.CONTINUE)),
        ServiceSpec(update=UpdatePolicy(canary=2, monitor_s=3.0, patience_s=90.0)),
        ServiceSpec(update=UpdatePolicy(parallelism=2, delay_s=1.0)),
    ]
    assert policy_for(specs) == UpdatePolicy(
        parallelism=2, delay_s=1.0, canary=2, monitor_s=3.0, patience_s=90.0
    )
    said = policy_for(specs, PolicyChange(canary=0, on_failure=FailureAction.ROLLBACK))
    assert said is not None
    assert (said.canary, said.on_failure) == (0, FailureAction.ROLLBACK)
    assert policy_for([ServiceSpec()]) is None
    assert policy_for(specs, PolicyChange(at_once=True)) is None


@pytest.mark.parametrize(
    "change",
    [
        PolicyChange(canary=-1),
        PolicyChange(parallelism=-1),
        PolicyChange(monitor_s=-1.0),
        PolicyChange(patience_s=float("nan")),
        PolicyChange(delay_s=1e9),
    ],
)
def test_a_policy_out_of_range_is_refused(change: PolicyChange) -> None:
    with pytest.raises(InvalidRequest):
        policy_for([ServiceSpec()], change)
