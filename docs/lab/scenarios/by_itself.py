"""`by-itself`: the cluster changes a credential at the third party; then its hook fails."""

from docs.lab.scenarios.scenario import Scenario
from docs.lab.steps import by_itself, setting

SCENARIO = Scenario(
    name="by-itself",
    summary="the cluster changes a credential at the third party by itself; then its hook fails",
    steps=(
        setting.STEP,
        by_itself.SCHEDULE,
        by_itself.ROTATE,
        by_itself.BREAK,
        by_itself.REPAIR,
    ),
    managers=("m1",),
)
