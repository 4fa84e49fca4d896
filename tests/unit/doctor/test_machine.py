"""What the kernel says, judged."""

import pytest

from cluster.doctor.machine import core_dump_check, machine_checks, swap_check
from cluster.protocol.checks import Strength

SWAPS = "Filename\t\tType\t\tSize\tUsed\tPriority\n"
LIMITS = (
    "Limit                     Soft Limit           Hard Limit           Units     \n"
    "Max data size             unlimited            unlimited            bytes     \n"
    "Max core file size        {}                    unlimited            bytes     \n"
)


def test_swap_is_weak_and_named() -> None:
    assert swap_check(SWAPS).strength is Strength.SECURE
    found = swap_check(SWAPS + "/dev/sda2  partition  1024  0  -2\n")
    assert found.strength is Strength.WEAK
    assert "/dev/sda2" in found.detail


@pytest.mark.parametrize(
    ("pattern", "limit", "strength"),
    [
        ("core", "0", Strength.SECURE),
        ("core", "unlimited", Strength.WEAK),
        # A program is handed the dump whatever the limit is.
        ("|/usr/lib/systemd/systemd-coredump", "0", Strength.WEAK),
    ],
)
def test_dumps_of_other_programs(pattern: str, limit: str, strength: Strength) -> None:
    assert core_dump_check(pattern, LIMITS.format(limit)).strength is strength


def test_every_check_answers_here() -> None:
    found = machine_checks()
    assert [check.name for check in found] == ["swap", "memory lock", "core dumps", "clock"]
    assert all(check.detail for check in found)
