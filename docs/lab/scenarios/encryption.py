"""`encryption`: what does not show in the store, on the disks and on the wire, and what does."""

from docs.lab.scenarios.scenario import Scenario
from docs.lab.steps import reading, setting

SCENARIO = Scenario(
    name="encryption",
    summary="look into engine, disks and network for names and values; see what stays visible",
    steps=(
        setting.STEP,
        reading.PLANT,
        reading.READ_ENGINE,
        reading.SEARCH_DISKS,
        reading.LISTEN,
    ),
)
