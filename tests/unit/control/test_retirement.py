"""When the duty looks at versions, and in which pieces it writes."""

from collections.abc import Sequence

import pytest

from cluster.control.policy import Action
from cluster.control.retirement import LOOK_AGAIN_S, SECRETS_PER_WRITE, Retirement
from cluster.control.version_terms import VersionTerms
from cluster.protocol.errors import Unavailable
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import Kind
from cluster.store.steps import Step, Write
from tests.unit.control.lab import ControlLab


class Part:
    """The part of the duty, with a commit that counts and may fail."""

    def __init__(self, lab: ControlLab) -> None:
        self.lab = lab
        self.told: list[str] = []
        self.fails = False
        self.retirement = Retirement(lab.store, lab.clock, self.commit)

    async def commit(self, steps: Sequence[Step], action: Action, detail: str) -> None:
        assert action in {Action.SECRET_RETIRE, Action.SECRET_WARN}
        if self.fails:
            raise Unavailable
        await self.lab.store.commit(Write(tuple(steps)))
        self.told.append(detail)

    async def rotate(self, name: str, overlap_s: float | None = None) -> None:
        await self.lab.secrets.rotate(
            self.lab.context(), name, SecretBytes(b"next"), VersionTerms(overlap_s=overlap_s)
        )
        self.retirement.notice({Kind.SECRET})


@pytest.fixture
def part(lab: ControlLab) -> Part:
    return Part(lab)


async def test_it_looks_again_when_the_next_overlap_ends(lab: ControlLab, part: Part) -> None:
    await lab.secret("db")
    await part.retirement.round()
    assert part.retirement.next_look_s() == LOOK_AGAIN_S
    await part.rotate("db", overlap_s=3.0)
    await part.retirement.round()
    assert part.retirement.next_look_s() == 3.0
    lab.clock.advance(3)
    await part.retirement.round()
    assert part.told == ["db/1 retired"]


async def test_what_was_warned_of_is_told_once_whoever_holds_the_duty(
    lab: ControlLab, part: Part
) -> None:
    """And again when the expiry is set anew: it is another warning then."""
    terms = VersionTerms(expires_in_s=10.0)
    await lab.secrets.create(lab.context(), "db", {}, SecretBytes(b"1"), terms)
    await part.retirement.round()
    another = Part(lab)
    await another.retirement.round()
    assert (part.told, another.told) == (["db/1 expiring"], [])
    lab.clock.advance(10)
    await another.retirement.round()
    assert another.told == ["db/1 expired"]
    await lab.versions.update(lab.context(), "db", VersionTerms(expires_in_s=60.0))
    another.retirement.notice({Kind.SECRET})
    await another.retirement.round()
    assert another.told == ["db/1 expired", "db/1 expiring"]


async def test_a_moment_long_past_is_not_waited_for(lab: ControlLab, part: Part) -> None:
    await lab.secret("db")
    await part.rotate("db", overlap_s=3.0)
    await part.retirement.round()
    lab.clock.advance(300)
    assert part.retirement.next_look_s() == 0.0


async def test_many_secrets_are_written_in_pieces(lab: ControlLab, part: Part) -> None:
    count = SECRETS_PER_WRITE + 1
    for number in range(count):
        await lab.secret(f"s{number}")
        await part.rotate(f"s{number}")
    await part.retirement.round()
    assert [len(told.split(", ")) for told in part.told] == [SECRETS_PER_WRITE, 1]


async def test_a_write_that_failed_is_tried_again(lab: ControlLab, part: Part) -> None:
    await lab.secret("db")
    await part.rotate("db")
    part.fails = True
    with pytest.raises(Unavailable):
        await part.retirement.round()
    part.fails = False
    assert part.retirement.next_look_s() == 0.0
    await part.retirement.round()
    assert part.told == ["db/1 retired"]


async def test_other_changes_cost_nothing(lab: ControlLab, part: Part) -> None:
    await lab.secret("db")
    await part.retirement.round()
    await lab.secrets.rotate(lab.context(), "db", SecretBytes(b"2"))
    part.retirement.notice({Kind.TASK_STATUS, Kind.NODE_STATUS})
    await part.retirement.round()
    assert part.told == []
