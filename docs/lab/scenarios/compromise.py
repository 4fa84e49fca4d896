"""`compromise`: somebody is root on a node: what he has, and what makes it worthless."""

from docs.lab.scenarios.scenario import Scenario
from docs.lab.steps import compromise, setting

SCENARIO = Scenario(
    name="compromise",
    summary="somebody is root on node2, what now? list what it had, evict it, rotate all of it",
    steps=(
        setting.STEP,
        compromise.SPREAD,
        compromise.BREAK_IN,
        compromise.ASK,
        compromise.EVICT,
        compromise.ROTATE_THE_REST,
        compromise.TRY,
    ),
    managers=("m1",),
)
