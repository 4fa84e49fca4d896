"""`locked`: power cut: the cluster comes back locked; what a thief of the disk gets; unlock it."""

from docs.lab.scenarios.scenario import Scenario
from docs.lab.steps import power_cut, setting

SCENARIO = Scenario(
    name="locked",
    summary="power cut: the cluster comes back locked; what a thief of the disk gets; unlock it",
    steps=(
        setting.STEP,
        power_cut.CUT_POWER,
        power_cut.START_LOCKED,
        power_cut.STEAL_DISK,
        power_cut.UNLOCK,
    ),
)
