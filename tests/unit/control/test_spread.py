"""Placement preferences as operators write them."""

import pytest

from cluster.control.spread import MAX_PREFERENCES, check_preferences
from cluster.protocol.errors import InvalidRequest
from tests.unit.control.lab import AUDITOR, ControlLab, drafted


def test_preferences_are_kept_in_their_order() -> None:
    texts = ("spread=node.labels.zone", "spread=node.labels.rack-1/x")
    assert check_preferences(texts) == texts


@pytest.mark.parametrize(
    "text",
    [
        "node.labels.zone",
        "spread=node.name",
        "spread=engine.labels.zone",
        "spread=node.labels.",
        "spread=node.labels.a b",
        "pack=node.labels.zone",
        "spread=node.labels.zone\n",
        f"spread=node.labels.{'x' * 65}",
    ],
)
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"write spread=node\.labels\.KEY"):
        check_preferences([text])


def test_one_label_twice_or_too_many_are_refused() -> None:
    many = [f"spread=node.labels.l{number}" for number in range(MAX_PREFERENCES + 1)]
    for texts in (many, [many[0], many[0]]):
        with pytest.raises(InvalidRequest, match="each once"):
            check_preferences(texts)
    assert len(check_preferences(many[:-1])) == MAX_PREFERENCES


async def test_service_shows_and_follows_its_preferences(lab: ControlLab) -> None:
    for name, zone in (("n1", "a"), ("n2", "a"), ("n3", "b")):
        await lab.join(name)
        await lab.nodes.update(lab.context(), name, add_labels={"zone": zone})
    prefs = ("spread=node.labels.zone",)
    await lab.services.create(lab.context(), drafted("web", placement_prefs=prefs, replicas=2))
    spec = lab.services.inspect(AUDITOR, "web")["spec"]
    assert isinstance(spec, dict)
    assert spec["placement_prefs"] == list(prefs)
    await lab.settle(lab.duty())
    assert len(lab.placed("web") & {"n1", "n2"}) == 1
    assert "n3" in lab.placed("web")
