"""Whoever acts under the duty without holding it is found."""

from collections.abc import Sequence

from tests.faults.duties import DUTY, LINK, duty_faults, of_records, terms
from tests.faults.entitlements import Event

NAMES = {"i1": "m1", "i2": "m2"}


def held(revision: int, manager_id: str) -> Event:
    body = {"holder": manager_id} if manager_id else None
    return (revision, 0.0, [(DUTY, DUTY, body)])


def did(revision: int, manager_id: str) -> Event:
    body = {"manager_id": manager_id, "actions": ["rollout.update"]}
    return (revision, 0.0, [(LINK, f"audit/{manager_id}/1", body)])


def judged(events: Sequence[Event]) -> list[str]:
    return list(duty_faults(events, NAMES))


def test_each_holder_may_act_in_its_term() -> None:
    events = [held(1, "i1"), did(2, "i1"), held(3, ""), held(4, "i2"), did(5, "i2")]
    assert judged(events) == []
    assert terms(events) == 2


def test_a_holder_that_acts_after_its_term_is_found() -> None:
    (fault,) = judged([held(1, "i1"), held(3, ""), held(4, "i2"), did(5, "i1")])
    assert "m1 did rollout.update, and m2 held the duty" in fault


def test_a_holder_that_acts_while_nobody_holds_the_duty_is_found() -> None:
    (fault,) = judged([held(1, "i1"), held(3, ""), did(4, "i1"), held(5, "i1"), did(6, "i1")])
    assert fault == "revision 4: m1 did rollout.update, and nobody held the duty"


def test_records_are_told_without_the_duty() -> None:
    node = ("node", "n", {"id": "n"})
    both: Event = (7, 1.0, [node, (DUTY, DUTY, None)])
    assert of_records([both, held(8, "i1")]) == [(7, 1.0, [node]), (8, 1.0 - 1.0, [])]
