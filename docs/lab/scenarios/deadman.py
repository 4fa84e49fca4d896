"""`deadman`: a node loses its managers: a lent credential goes, the others stay, all comes back."""

from docs.lab.scenarios.scenario import Scenario
from docs.lab.steps import deadman, setting

SCENARIO = Scenario(
    name="deadman",
    summary="pull node2's cable: a lent credential is wiped in time, others stay, all comes back",
    steps=(
        setting.STEP,
        deadman.LEND,
        deadman.PLUG_IN,
        deadman.PULL,
        deadman.PLUG_IN_AGAIN,
    ),
    managers=("m1",),
)
