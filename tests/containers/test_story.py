"""The scenario of `make lab`, played in containers by the second driver."""

from docs.lab.compose.driver import ContainerLab
from docs.lab.compose.story import NOT_SHOWN, STORY
from docs.lab.narrator import Verdict


def test_everything_is_as_told(lab: ContainerLab) -> None:
    observed = lab.narrator.observations
    differing = [one.claim for one in observed if one.verdict is Verdict.DIFFERS]
    assert differing == []
    assert {part.title for part in STORY} == set(lab.narrator.steps)


def test_what_containers_cannot_show_is_known(lab: ContainerLab) -> None:
    observed = lab.narrator.observations
    assert {one.claim for one in observed if one.verdict is Verdict.NOT_SHOWN} == NOT_SHOWN
