"""`bad-rotation`: a credential that does not work is taken back, and the fleet goes on."""

from docs.lab.scenarios.scenario import Scenario
from docs.lab.steps import bad_rotation, setting

SCENARIO = Scenario(
    name="bad-rotation",
    summary="a wrong credential reaches one node, fails its check, and is taken back by itself",
    steps=(
        setting.STEP,
        bad_rotation.ASK_WHETHER_IT_WORKS,
        bad_rotation.ROTATE_WELL,
        bad_rotation.ROTATE_BADLY,
        bad_rotation.LOOK_BACK,
    ),
    managers=("m1",),
)
