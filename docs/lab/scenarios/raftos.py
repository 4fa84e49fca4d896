"""`raftos`: the library that the first sketch named, in its own venv, beside etcd."""

from docs.lab.scenarios.scenario import Scenario
from docs.lab.steps import raftos

SCENARIO = Scenario(
    name="raftos",
    summary="why not raftos: it acknowledges on both sides of a split, votes twice, loses answers",
    steps=(
        raftos.INSTALL,
        raftos.WRITE,
        raftos.SPLIT,
        raftos.VOTE,
    ),
    managers=("m1",),
    cast="no cluster of ours, but nodes of raftos and members of etcd",
)
