"""`hostile-app`: an application is taken over, and tries everything on its node."""

from docs.lab.scenarios.scenario import Scenario
from docs.lab.steps import setting, walls

SCENARIO = Scenario(
    name="hostile-app",
    summary="blue is taken over: what it tries on its node, what stops it, what it does get",
    steps=(
        setting.STEP,
        walls.TRY_RED,
        walls.TRY_WALLS,
        walls.ASK_MANAGER,
        walls.SHOW_OWN,
    ),
    managers=("m1",),
)
