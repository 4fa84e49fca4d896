"""Whatever a decoder is given, only its declared errors come out, and nothing of the input in them.

`make fuzz` runs the same targets for longer, guided by the branches that are taken.
"""

import subprocess
import sys
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings

from cluster.protocol.errors import InvalidRequest, MalformedMessage
from tests.fuzz import asked, networked, stored
from tests.fuzz.mutations import inputs
from tests.fuzz.target import CANARY, EchoedError, Target

pytestmark = [
    pytest.mark.threat("T-16"),
    # The library announces what it will refuse one day.
    pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning"),
]

TARGETS: Final = {
    target.name: target for target in (*networked.TARGETS, *stored.TARGETS, *asked.TARGETS)
}
EXAMPLES: Final = 40
BYTES_CHANGED: Final = 200
"""Of each target's seeds together: more is `make fuzz`'s business."""


@pytest.mark.parametrize("name", TARGETS)
def test_only_declared_errors_come_out(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=EXAMPLES, database=None, suppress_health_check=list(HealthCheck))
    @given(data=inputs(target))
    def holds(data: bytes) -> None:
        target.check(data)

    holds()


@pytest.mark.parametrize("name", [one.name for one in TARGETS.values() if not one.may_echo])
def test_no_changed_byte_brings_out_another_error(name: str, seed: int) -> None:
    """Version numbers, tags and curves are single bytes, which chance alone does not hit."""
    target = TARGETS[name]
    places = [(data, at) for data in target.seeds for at in range(len(data))]
    stride = max(1, len(places) // BYTES_CHANGED)
    for data, at in places[seed % stride :: stride]:
        for changed in {data[at] ^ 1, data[at] ^ 0x80, (data[at] + 1) % 256}:
            target.check(data[:at] + bytes((changed,)) + data[at + 1 :])


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_takes_a_seed(name: str) -> None:
    """The control: what is refused was understood before it was changed."""
    target = TARGETS[name]
    assert any(target.check(data) for data in target.seeds) or name in NEEDS_MORE


NEEDS_MORE: Final = {"hook-description"}
"""Takes a description only together with the files that it names."""


def _echoes(data: bytes) -> None:
    raise InvalidRequest(f"cannot read {data.decode()}")


def _echoes_in_its_cause(data: bytes) -> None:
    try:
        int(data)
    except ValueError as error:
        raise MalformedMessage from error


def _lets_through(data: bytes) -> None:
    data.decode("ascii")


@pytest.mark.parametrize("run", [_echoes, _echoes_in_its_cause])
def test_echo_is_found(run: object) -> None:
    with pytest.raises(EchoedError):
        Target("planted", run, (CANARY,)).check(CANARY)  # type: ignore[arg-type]  # one of the two above


def test_undeclared_error_is_found() -> None:
    with pytest.raises(UnicodeDecodeError):
        Target("planted", _lets_through, (b"",)).check(b"\xff")


def test_no_input_takes_memory_beyond_its_size() -> None:
    """In a process of its own, whose address space ends soon after what it needs to start."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.bombs"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["limited", *TARGETS]
