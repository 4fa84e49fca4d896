"""The life of versions against a naive model, in any order of rotations, rollbacks, pins, prunes.

The model keeps the order in which versions were left and the set of numbers that have a value.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cluster.control.versions import (
    DESTROYED_KEPT,
    first_version,
    last_left,
    made_primary,
    may_settle,
    next_due,
    rollback_target,
    rotated,
    settled,
)
from cluster.protocol.errors import ClusterError
from cluster.protocol.ids import VersionNumber
from cluster.store.records import SecretRecord, SecretVersion, VersionState

KEEPS = st.integers(0, 4)
OVERLAPS = st.none() | st.sampled_from([0.0, 5.0, 20.0])


class Versions(RuleBasedStateMachine):
    """One secret, and what is known of it by other means."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1_000.0
        self.secret = SecretRecord(
            id="s",
            name="db",
            versions=(first_version(1, self.now_s, "test"),),
            next_number=2,
            created_at=self.now_s,
            updated_at=self.now_s,
        )
        self.primary = 1
        self.left: list[int] = []
        """Numbers in the order in which they were primary last."""
        self.values = {1}
        self.promised: dict[int, float] = {}
        """Until when a version stays active."""
        self.pinned: set[int] = set()
        self.retired: set[int] = set()
        self.given = {1}

    def _leave(self, overlap_s: float | None) -> None:
        self.left = [number for number in self.left if number != self.primary]
        self.left.append(self.primary)
        self.promised[self.primary] = self.now_s + (overlap_s or 0.0)

    def _version(self, number: int) -> SecretVersion:
        return next(v for v in self.secret.versions if v.number == number)

    @rule(overlap_s=OVERLAPS)
    def rotate(self, overlap_s: float | None) -> None:
        number = self.secret.next_number
        assert number not in self.given, "numbers are never used again"
        self.secret = rotated(self.secret, 1, self.now_s, "test", overlap_s=overlap_s)
        self._leave(overlap_s)
        self.primary = number
        self.given.add(number)
        self.values.add(number)

    @rule(data=st.data())
    def roll_back_to_any(self, data: st.DataObject) -> None:
        self._roll_back(data.draw(st.integers(1, self.secret.next_number)))

    @precondition(lambda self: self.left)
    @rule()
    def roll_back(self) -> None:
        self._roll_back(None)

    def _roll_back(self, number: int | None) -> None:
        wanted = self.left[-1] if number is None else number
        possible = wanted in self.values and wanted != self.primary
        try:
            target = rollback_target(self.secret, number)
        except ClusterError:
            assert not possible, f"version {wanted} has its value and cannot be rolled back to"
            return
        assert possible
        assert target.number == wanted
        self.secret = made_primary(self.secret, wanted, self.now_s, overlap_s=0.0)
        self._leave(0.0)
        self.left.remove(wanted)
        self.retired.discard(wanted)
        self.primary = wanted

    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        issued = [v.number for v in self.secret.versions if v.state is not VersionState.RETIRED]
        self.pinned.add(data.draw(st.sampled_from(issued)))

    @precondition(lambda self: self.pinned)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        self.pinned.remove(data.draw(st.sampled_from(sorted(self.pinned))))

    @rule(by_s=st.sampled_from([0.0, 3.0, 6.0, 30.0]))
    def wait(self, by_s: float) -> None:
        self.now_s += by_s
        self._settle(None)

    @rule(keep=KEEPS)
    def prune(self, keep: int) -> None:
        self._settle(keep)

    @rule(keep=KEEPS)
    def keep(self, keep: int) -> None:
        self.secret = SecretRecord(
            **{name: getattr(self.secret, name) for name in self.secret.__struct_fields__}
            | {"keep": keep}
        )
        self._settle(None)

    def _settle(self, keep: int | None) -> None:
        after = settled(self.secret, self.now_s, self.pinned, keep)
        due = {
            number
            for number in self.left
            if number not in self.pinned | self.retired and self.promised[number] <= self.now_s
        }
        self.retired |= due
        kept = self.secret.keep if keep is None else keep
        order = [n for n in self.left if n in self.retired & self.values]
        gone = set(order[: max(0, len(order) - kept)])
        self.values -= gone
        assert after.record is self.secret or keep is not None or may_settle(self.secret)
        assert set(after.retired) == due
        assert set(after.destroyed) == gone
        assert settled(after.record, self.now_s, self.pinned, keep).record is after.record
        self.secret = after.record
        upcoming = next_due(self.secret, self.now_s)
        assert upcoming is None or upcoming > self.now_s

    @invariant()
    def exactly_one_is_primary(self) -> None:
        assert [v.number for v in self.secret.versions if v.state is VersionState.PRIMARY] == [
            self.primary
        ]
        assert self.secret.next_number == max(self.given) + 1

    @invariant()
    def pinned_versions_can_be_issued(self) -> None:
        for number in self.pinned:
            assert self._version(number).state is not VersionState.RETIRED
            assert not self._version(number).destroyed

    @invariant()
    def values_are_where_the_record_says(self) -> None:
        assert {v.number for v in self.secret.versions if not v.destroyed} == self.values
        destroyed = [v for v in self.secret.versions if v.destroyed]
        assert all(v.state is VersionState.RETIRED for v in destroyed)
        assert len(destroyed) <= DESTROYED_KEPT

    @invariant()
    def the_last_one_left_is_known(self) -> None:
        last = last_left(self.secret)
        assert (last.number if last else None) == (self.left[-1] if self.left else None)

    @invariant()
    def the_version_before_is_an_earlier_one(self) -> None:
        before = self.secret.before_primary
        earlier = [number for number in self.left if number < self.primary]
        assert (before.number if before else None) == (earlier[-1] if earlier else None)


TestVersions = Versions.TestCase
TestVersions.settings = settings(max_examples=60, stateful_step_count=40)


def test_what_was_taken_back_is_no_version_to_go_back_to_and_pushes_none_out() -> None:
    """A bad version, and its way back, leave the version before the good one as it was."""
    machine = Versions()
    good = rotated(machine.secret, 1, 1_001.0, "test", overlap_s=0.0)
    bad = rotated(good, 1, 1_002.0, "test", overlap_s=0.0)
    back = made_primary(bad, good.primary.number, 1_003.0, overlap_s=0.0, taken_back=True)
    over = settled(back, 1_003.0, (), keep=1)
    assert over.destroyed == (bad.primary.number,)
    assert rollback_target(over.record).number == 1

    kept = settled(back, 1_003.0, (), keep=2).record
    assert rollback_target(kept).number == 1
    again = made_primary(kept, bad.primary.number, 1_004.0, overlap_s=0.0)
    assert not again.primary.taken_back
    assert rollback_target(again).number == good.primary.number


def test_more_destroyed_versions_than_are_remembered_do_not_disturb_the_rest() -> None:
    """A record stays small however often its secret is rotated."""
    machine = Versions()
    for _ in range(3 * DESTROYED_KEPT):
        machine.rotate(overlap_s=0.0)
        machine.wait(by_s=0.0)
        for check in (machine.exactly_one_is_primary, machine.values_are_where_the_record_says):
            check()
    machine.roll_back()
    assert VersionNumber(machine.primary) == 3 * DESTROYED_KEPT
