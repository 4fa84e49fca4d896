"""The planner's order and its refusals."""

import msgspec
import pytest

from agent.assignments import Mount, Publish, Remove, plan
from cluster.protocol.wire import ServiceAssignment
from tests.simulation.naive_manager import service

RED = service("red", ("a", 1), uid=1000)
BLUE = service("blue", ("b", 1), uid=1001)


def mounted(*services: ServiceAssignment) -> dict[str, ServiceAssignment]:
    return {s.service_id: s for s in services}


def test_removals_come_first() -> None:
    green = service("green", ("c", 1), uid=RED.uid)
    rotated = service("blue", ("b", 2), uid=1001)
    made = plan([green, rotated], mounted(RED, BLUE), share_uid=False)
    assert made.actions == (Remove(RED), Publish(rotated, changed=True), Mount(green))


def test_second_service_of_a_uid_is_refused_on_kernel_mounts() -> None:
    twin = msgspec.structs.replace(BLUE, uid=RED.uid)
    made = plan([twin, RED], mounted(RED), share_uid=False)
    assert made.actions == ()
    assert "same uid" in made.refused[twin.service_id]


def test_second_service_of_a_uid_is_mounted_on_given_volumes() -> None:
    twin = msgspec.structs.replace(BLUE, uid=RED.uid)
    assert plan([twin, RED], mounted(RED), share_uid=True).actions == (Mount(twin),)


def test_refused_service_keeps_its_uid_from_others() -> None:
    broken = msgspec.structs.replace(RED, uid=-1)
    thief = msgspec.structs.replace(BLUE, uid=RED.uid)
    made = plan([broken, thief], mounted(RED), share_uid=False)
    assert set(made.refused) == {RED.service_id, BLUE.service_id}
    assert made.actions == ()


def test_new_owner_means_a_new_mount() -> None:
    moved = msgspec.structs.replace(RED, uid=1005)
    made = plan([moved], mounted(RED), share_uid=False)
    assert made.actions == (Remove(RED), Mount(moved))


@pytest.mark.parametrize("target", ["..", "../x", "a/b", "..data", ".hidden", "", "a\0b", "-rf"])
def test_target_that_is_no_plain_name_is_refused(target: str) -> None:
    file = msgspec.structs.replace(RED.files[0], target=target)
    evil = msgspec.structs.replace(RED, files=(file,))
    assert plan([evil], {}, share_uid=False).actions == ()
    assert plan([RED], {}, share_uid=False).actions == (Mount(RED),)


@pytest.mark.parametrize("name", ["../red", "red/x", "", "RED", "..", "a" * 64])
def test_service_name_that_is_no_label_is_refused(name: str) -> None:
    evil = msgspec.structs.replace(RED, name=name)
    assert plan([evil], {}, share_uid=False).actions == ()


def test_setuid_mode_is_refused() -> None:
    file = msgspec.structs.replace(RED.files[0], mode=0o4555)
    made = plan([msgspec.structs.replace(RED, files=(file,))], {}, share_uid=False)
    assert made.actions == ()


def test_colliding_targets_are_refused() -> None:
    files = (RED.files[0], msgspec.structs.replace(RED.files[0], secret_id="other"))
    made = plan([msgspec.structs.replace(RED, files=files)], {}, share_uid=False)
    assert "share a target" in made.refused[RED.service_id]
