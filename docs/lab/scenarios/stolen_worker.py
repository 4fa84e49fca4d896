"""`stolen-worker`: a worker's disk is stolen: what its key opens, evict it, what it opens then."""

from docs.lab.scenarios.scenario import Scenario
from docs.lab.steps import setting, theft

SCENARIO = Scenario(
    name="stolen-worker",
    summary="a worker's disk is stolen: what its key opens, evict it, what it opens then",
    steps=(
        setting.STEP,
        theft.COPY_DISK,
        theft.ASK,
        theft.EVICT,
        theft.ROTATE,
    ),
    managers=("m1",),
)
