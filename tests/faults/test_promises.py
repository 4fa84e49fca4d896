"""The judges of the records' history find what is planted, and pass what is right."""

from typing import Any

import pytest

from tests.faults.checker import Watched, unbroken
from tests.faults.entitlements import Body, Event, Timeline
from tests.faults.promises import exposure_faults, manifest_faults, record_faults

TASKS = ("t1", "t2")
NODES = {"t1": "n1", "t2": "n2"}


def version(number: int, state: str, turn: int = 0) -> Body:
    return {
        "number": number,
        "state": state,
        "created_at": float(number),
        "left_turn": turn,
        "destroyed": False,
    }


def secret(*versions: Body) -> Body:
    numbers = [one["number"] for one in versions]
    return {"id": "s", "name": "db", "versions": list(versions), "next_number": max(numbers) + 1}


def rollout(state: str = "running", **more: Any) -> Body:  # noqa: ANN401  # any field
    """Return the rollout of version 2, of which nothing is released."""
    body: Body = {
        "id": "r",
        "name": "db",
        "state": state,
        "secret_id": "s",
        "service_id": None,
        "version": 2,
        "spec_number": None,
        "policy": {"canary": 1},
        "before_version": 1,
        "before_spec_number": None,
        "canary_passed": False,
        "finished_at": None,
        "held_specs": [],
        "targets": [target(node) for node in NODES.values()],
    }
    return body | more


def target(node: str, released_at: float | None = None, state: str = "pending") -> Body:
    return {
        "service_id": "v",
        "node_id": node,
        "state": state,
        "released_at": released_at,
        "before": None,
    }


def receipt(number: int, node: str = "n1", issued_at: float = 1.0) -> Body:
    return {
        "secret_id": "s",
        "version": number,
        "node_id": node,
        "service_id": "v",
        "issued_at": issued_at,
        "secret_name": "db",
        "node_name": node,
        "service_name": "web",
    }


REFERENCE = {"secret_id": "s", "target": "db", "version": None, "previous": True}
BEGUN: list[Event] = [
    (1, 0.0, [("secret", "s", secret(version(1, "primary")))]),
    (2, 0.0, [("service", "v", {"id": "v", "name": "web", "spec": {"references": [REFERENCE]}})]),
    *(
        (3, 0.0, [("node", node, {"id": node, "name": node, "revoked_at": None})])
        for node in NODES.values()
    ),
    (
        4,
        0.0,
        [
            ("task", task, {"service_id": "v", "node_id": node, "state": "running"})
            for task, node in NODES.items()
        ],
    ),
]
ROTATED = secret(version(1, "active", 1), version(2, "primary"))
HELD: Event = (5, 0.0, [("secret", "s", ROTATED), ("rollout", "r", rollout())])
ON_TRIAL = rollout(targets=[target("n1", 1.0, "released"), target("n2")])
"""It is released to the first node."""


def judged(*events: Event, refused: bool = False) -> list[str]:
    every = [*BEGUN, *events]
    versions = {("db", 2)} if refused else set()
    return list(record_faults(every, Timeline.of(every), versions))


def at(revision: int, kind: str, record_id: str, body: Body) -> Event:
    return (revision, 0.0, [(kind, record_id, body)])


def test_a_canary_gets_its_receipt_after_its_release() -> None:
    assert judged(HELD, at(6, "rollout", "r", ON_TRIAL), at(7, "receipt", "x", receipt(2))) == []


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_receipt_before_the_release_is_found(node: str) -> None:
    faults = judged(HELD, at(6, "receipt", "x", receipt(2, node)), at(7, "rollout", "r", ON_TRIAL))
    (fault,) = faults
    assert f"version 2 of db for web on {node} is issued" in fault


def test_a_receipt_for_an_evicted_node_is_found() -> None:
    gone = {"id": "n1", "name": "n1", "revoked_at": 9.0}
    issued = at(6, "receipt", "x", receipt(1))
    again = at(8, "receipt", "x", receipt(1, issued_at=2.0))
    noted = at(8, "receipt", "x", receipt(1) | {"acked_at": 3.0})
    assert judged(issued, at(7, "node", "n1", gone), noted) == []
    (fault,) = judged(issued, at(7, "node", "n1", gone), again)
    assert "to a node that is evicted" in fault


def test_a_receipt_in_the_transaction_of_an_eviction_came_before_it() -> None:
    gone = {"id": "n1", "name": "n1", "revoked_at": 9.0}
    merged: Event = (6, 0.0, [("receipt", "x", receipt(1)), ("node", "n1", gone)])
    assert judged(merged) == []
    (fault,) = judged(merged, at(7, "receipt", "x", receipt(1, issued_at=2.0)))
    assert "revision 7" in fault
    assert "to a node that is evicted" in fault


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (secret(version(1, "active", 1), version(2, "active")), "0 primary"),
        (secret(version(1, "primary"), version(2, "primary")), "2 primary"),
        (secret(version(1, "primary")), "went back"),
        (secret(version(1, "active", 1), version(2, "primary") | {"created_at": 9.0}), "another"),
    ],
)
def test_versions_that_contradict_themselves_are_found(body: Body, word: str) -> None:
    faults = judged(HELD, at(6, "secret", "s", body))
    assert any(word in fault for fault in faults), faults


def test_a_retired_version_that_is_active_again_is_found() -> None:
    retired = secret(version(1, "retired", 1), version(2, "primary"))
    (fault,) = judged(HELD, at(6, "secret", "s", retired), at(7, "secret", "s", ROTATED))
    assert "was retired and is active again" in fault


def test_a_way_back_that_leaves_the_version_is_found() -> None:
    back = secret(version(1, "primary"), version(2, "retired", 2))
    turned = ("rollout", "r", rollout("rolling_back"))
    assert judged(HELD, (6, 0.0, [turned, ("secret", "s", back)])) == []
    (fault,) = judged(HELD, (6, 0.0, [turned]))
    assert "goes back, and version 2 is primary" in fault


def test_a_rollout_that_is_rolled_back_with_tasks_left_is_found() -> None:
    left = rollout("rolled_back", targets=[target("n1", 1.0, "released")], finished_at=9.0)
    faults = judged(HELD, at(6, "rollout", "r", left))
    assert any("1 tasks are not back" in fault for fault in faults)


def test_a_release_beyond_the_canaries_is_found() -> None:
    both = rollout(targets=[target("n1", 1.0, "released"), target("n2", 1.0, "released")])
    (fault,) = judged(HELD, at(6, "rollout", "r", ON_TRIAL), at(7, "rollout", "r", both))
    assert "2 tasks have db/2 before a canary passed" in fault


def test_a_refused_version_that_is_taken_for_good_is_found() -> None:
    done = rollout(targets=[target("n1", 1.0, "done"), target("n2")])
    passed = rollout(canary_passed=True)
    for body, word in ((done, "done on a task"), (passed, "passed its canaries")):
        assert judged(HELD, at(6, "rollout", "r", body)) == []
        (fault,) = judged(HELD, at(6, "rollout", "r", body), refused=True)
        assert word in fault


def test_two_rotations_of_one_secret_are_found() -> None:
    one = {"id": "a", "secret_id": "s", "name": "db", "finished_at": None, "version": 2}
    first, second = at(6, "rotation", "a", one), at(7, "rotation", "b", one | {"id": "b"})
    assert judged(first, at(7, "rotation", "a", one | {"finished_at": 1.0})) == []
    assert "2 rotations under way" in judged(first, second)[0]


def sent(revision: int, *versions: int) -> list[str]:
    """Return what is wrong with a message to n2, of which nothing is released."""
    retired = secret(version(1, "retired", 1), version(2, "primary"))
    every = [*BEGUN, HELD, at(7, "rollout", "r", rollout("finished", finished_at=1.0))]
    every.append(at(8, "secret", "s", retired))
    message = {"kind": "snapshot", "session": 1, "revision": revision}
    files = {"files": [["v", "s", number] for number in versions]}
    return list(manifest_faults([message | files], "n2", Timeline.of(every), 9))


@pytest.mark.parametrize(("revision", "versions"), [(5, [1]), (7, [1, 2]), (9, [2]), (10, [7])])
def test_what_the_records_say_may_be_sent(revision: int, versions: list[int]) -> None:
    assert sent(revision, *versions) == []


@pytest.mark.parametrize(
    ("revision", "versions", "word"),
    [
        (5, [1, 2], "sent version 2 of db"),
        (8, [1, 2], "sent version 1 of db"),
        (7, [2], "1 files are missing"),
    ],
)
def test_what_is_not_released_or_retired_and_sent_is_found(
    revision: int, versions: list[int], word: str
) -> None:
    (fault,) = sent(revision, *versions)
    assert word in fault


def test_files_follow_the_records() -> None:
    every = [*BEGUN, HELD, at(7, "rollout", "r", rollout("finished", finished_at=1.0))]
    timeline = Timeline.of(every)
    assert timeline.versions("n2", "web", "db") == [("db", 1), ("db", 2)]
    assert timeline.versions("n2", "web", "db.previous") == [("db", 1)]


def test_a_live_version_of_an_evicted_node_without_a_mark_is_found() -> None:
    told: dict[str, Any] = {"evicted": ["n2"], "secret_names": {}, "unmarked": [["s", 2]]}
    assert list(exposure_faults(told, [("s", 2, "n1"), ("s", 1, "n2")])) == []
    assert len(list(exposure_faults(told, [("s", 2, "n2")]))) == 1


def test_watches_together_are_unbroken_as_far_as_they_touch() -> None:
    start = Watched("a", [(2, ()), (9, ())], from_start=True)
    assert unbroken([Watched("b", [(9, ()), (20, ())]), start]) == 20
    assert unbroken([Watched("b", [(12, ()), (20, ())]), start]) == 9
    assert unbroken([Watched("b", [(12, ())])]) == 0
