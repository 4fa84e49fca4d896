"""Sets the stage of a scenario: cluster, nodes, secrets, services; told in two commands."""

from docs.lab.layout import NODES
from docs.lab.stage import SERVICES, Lab
from docs.lab.steps import founding, placing
from docs.lab.steps.step import Step


def _run(lab: Lab) -> None:
    with lab.narrator.briefly():
        founding.STEP.run(lab)
        placing.STEP.run(lab)
    lab.shell.run("strongroom", "status")
    if lab.capabilities.delivery:
        lab.narrator.not_shown("services get their secrets", lab.capabilities.delivery)
        return
    lab.shell.run("strongroom", "service", "ls")
    lab.narrator.observe("services run, each with its secret", seen=_running(lab), expected=3)


def _running(lab: Lab) -> int:
    return sum(lab.processes[service.name].is_running for service in SERVICES)


STEP = Step(
    "Set the stage",
    """A cluster and two nodes. Red and blue run on node1, twitter on node2; each has a secret of
    its own. How that is done is the story of the tour (`make lab`); here it is done at once.""",
    _run,
    (*NODES, "third-party", *(service.name for service in SERVICES)),
)
