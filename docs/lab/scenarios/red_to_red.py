"""`red-to-red`: two reds talk mutual TLS while their certificates change; blue is refused."""

from docs.lab.scenarios.scenario import Scenario
from docs.lab.steps import red_to_red, setting

SCENARIO = Scenario(
    name="red-to-red",
    summary="two reds talk mutual TLS while their certificates are renewed; blue is refused",
    steps=(
        setting.STEP,
        red_to_red.GIVE,
        red_to_red.TALK,
        red_to_red.REFUSE,
        red_to_red.RENEW,
    ),
    managers=("m1",),
    init_options=("--service-ttl", "20s"),
)
