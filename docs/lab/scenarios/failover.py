"""`failover`: two leaders die while rotations run, and nothing acknowledged is lost."""

from docs.lab.scenarios.scenario import Scenario
from docs.lab.steps import leader_loss, setting

SCENARIO = Scenario(
    name="failover",
    summary="kill -9 the leader while rotations run, then the next; nothing acknowledged is lost",
    steps=(
        setting.STEP,
        leader_loss.ROTATE_AND_KILL,
        leader_loss.LOSE_MAJORITY,
        leader_loss.BRING_BACK,
    ),
)
