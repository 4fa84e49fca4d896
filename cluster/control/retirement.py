"""Retirement: versions that nothing needs any more are retired, and values beyond `keep` destroyed.

Part of the placement duty. Level-triggered: each round looks at the records as they are and at the
injected clock, so a restart or another holder goes on where the last one stood. A service that pins
a version meanwhile rewrites the secret's record, and the write of this round meets a conflict.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from cluster.control.expiry import expiring, next_warning, warned
from cluster.control.policy import Action
from cluster.control.rotation_records import needed_by_rotations
from cluster.control.versions import (
    Settled,
    active_count,
    last_left,
    may_settle,
    needed_by_specs,
    next_due,
    pinned_by,
    settled,
)
from cluster.protocol.errors import Conflict
from cluster.protocol.ids import SecretId, VersionNumber
from cluster.store.records import Kind, SecretRecord
from cluster.store.sealed_store import SealedStore
from cluster.store.steps import Remove, Replace, Step
from cluster.store.view import Stored, View
from cluster.system import Clock

log = structlog.get_logger(__name__)

LOOK_AGAIN_S: Final = 60.0
CROWDED: Final = 10
"""Active versions of one secret from which on a rotation retires by itself what is due."""
MAX_ACTIVE: Final = 40
SECRETS_PER_WRITE: Final = 10
STEPS_PER_WRITE: Final = 60
_CONCERNED: Final = frozenset({Kind.SECRET, Kind.SERVICE, Kind.ROLLOUT, Kind.ROTATION})

Commit = Callable[[Sequence[Step], Action, str], Awaitable[None]]
"""Writes steps under the duty's guard, with what the audit says of them."""


@dataclass(slots=True)
class Retirement:
    """What the holder of the duty does for versions."""

    store: SealedStore
    clock: Clock
    commit: Commit
    _due: bool = True
    _look_at_s: float = 0.0
    """By the calendar, as `retire_at` is."""

    def notice(self, kinds: Collection[Kind]) -> None:
        """Take in which kinds of records changed."""
        self._due |= not _CONCERNED.isdisjoint(kinds)

    def look_again(self) -> None:
        """Make the next round look at everything, whatever changed."""
        self._due = True

    def next_look_s(self) -> float:
        """Return in how many seconds something is due, as far as is known now."""
        return max(0.0, min(self._look_at_s - self._now_s(), LOOK_AGAIN_S))

    async def round(self) -> None:
        """Retire and destroy what is due, and warn of what expires."""
        now_s = self._now_s()
        if not self._due and now_s < self._look_at_s:
            return
        self._due = False
        self._look_at_s = 0.0  # if a write fails, the next round looks at everything again
        view = self.store.view
        secrets = view.secrets_passing()
        open_ones = [stored for stored in secrets if may_settle(stored.record)]
        changed: set[str] = set()
        for piece in _pieces(_changes(view, open_ones, now_s)):
            steps = [step for stored, after in piece for step in settling(view, stored, after)]
            await self.commit(steps, Action.SECRET_RETIRE, _told(piece))
            changed |= {stored.record.id for stored, _ in piece}
        await self._warn([one for one in secrets if one.record.id not in changed], now_s)
        records = [stored.record for stored in secrets]
        moments = (
            *(next_due(stored.record, now_s) for stored in open_ones),
            next_warning(records, now_s),
        )
        known = (at for at in moments if at is not None)
        self._look_at_s = min(known, default=now_s + LOOK_AGAIN_S)

    async def _warn(self, secrets: Sequence[Stored[SecretRecord]], now_s: float) -> None:
        """Tell of each version once that it expires soon, and once that it did.

        It is written down, so that followers of events hear of it, and no other holder tells again.
        """
        untold = {
            one.secret.id
            for one in expiring((stored.record for stored in secrets), now_s)
            if one.warning != one.version.warned
        }
        open_ones = [one for one in secrets if one.record.id in untold]
        for start in range(0, len(open_ones), SECRETS_PER_WRITE):
            piece = open_ones[start : start + SECRETS_PER_WRITE]
            found = [
                one
                for one in expiring((stored.record for stored in piece), now_s)
                if one.warning != one.version.warned
            ]
            told = (f"{one.secret.name}/{one.version.number} {one.warning}" for one in found)
            steps = [Replace(stored, warned(stored.record, now_s)) for stored in piece]
            await self.commit(steps, Action.SECRET_WARN, ", ".join(told))
            for one in found:
                event = "secret.expired" if one.expired else "secret.expiring"
                log.warning(event, secret=one.secret.name, version=one.version.number)

    def _now_s(self) -> float:
        return self.clock.now().timestamp()


def made_room(view: View, secret: SecretRecord, now_s: float) -> Settled:
    """Return `secret` ready for one more version. Raises Conflict when too many must stay active.

    Rotations may be faster than the duty, or it may be changing hands.
    """
    if active_count(secret) < CROWDED:
        return Settled(secret)
    after = settled(secret, now_s, needed_versions(view, secret))
    if active_count(after.record) >= MAX_ACTIVE:
        raise Conflict(
            f"secret {secret.name!r} has {MAX_ACTIVE} active versions; wait until an overlap ends, "
            "rotate with a shorter one, or let services pin fewer"
        )
    return after


def needed_versions(view: View, secret: SecretRecord) -> frozenset[int]:
    """Return the numbers that may be neither retired nor destroyed now."""
    secret_id = SecretId(secret.id)
    services = [stored.record for stored in view.services_referring_to(secret_id)]
    needed = needed_by_specs(secret, services) | needed_by_rollouts(view, secret)
    return needed | needed_by_rotations(view, secret_id)


def needed_by_rollouts(view: View, secret: SecretRecord) -> frozenset[int]:
    """Return the numbers that an unfinished rollout may still issue or go back to.

    One that goes to all tasks at once issues the new version alone. It keeps the version before
    only where nobody said for how long: a node that is away must not prolong an overlap.
    """
    needed: set[int] = set()
    for rollout in (stored.record for stored in view.rollouts.values()):
        if rollout.finished_at is not None:
            continue
        needed |= pinned_by(secret.id, (held.spec for held in rollout.held_specs))
        if rollout.secret_id != secret.id:
            continue
        if rollout.policy is None:
            left = last_left(secret)
            needed |= {left.number} if left is not None and left.retire_at is None else set()
        else:
            held = (rollout.before_version, *(target.before for target in rollout.targets))
            needed |= {number for number in held if number is not None}
    return frozenset(needed)


def settling(view: View, stored: Stored[SecretRecord], after: Settled) -> list[Step]:
    """Return the steps that carry out what was settled; none if nothing was."""
    if after.record is stored.record:
        return []
    secret_id = SecretId(stored.record.id)
    return [Replace(stored, after.record), *value_removals(view, secret_id, after.destroyed)]


def value_removals(
    view: View, secret_id: SecretId, numbers: Collection[VersionNumber]
) -> list[Remove]:
    """Return the steps that remove the values of versions, as far as they are there."""
    found = (view.secret_values.version(secret_id, number) for number in numbers)
    return [Remove(stored) for stored in found if stored is not None]


def _changes(
    view: View, secrets: Iterable[Stored[SecretRecord]], now_s: float
) -> Iterator[tuple[Stored[SecretRecord], Settled]]:
    for stored in secrets:
        after = settled(stored.record, now_s, needed_versions(view, stored.record))
        if after.record is not stored.record:
            yield stored, after


def _pieces(
    changes: Iterable[tuple[Stored[SecretRecord], Settled]],
) -> Iterator[list[tuple[Stored[SecretRecord], Settled]]]:
    """Yield the changes in pieces that one transaction takes."""
    piece: list[tuple[Stored[SecretRecord], Settled]] = []
    steps = 0
    for change in changes:
        size = 1 + len(change[1].destroyed)
        if piece and (len(piece) == SECRETS_PER_WRITE or steps + size > STEPS_PER_WRITE):
            yield piece
            piece, steps = [], 0
        piece.append(change)
        steps += size
    if piece:
        yield piece


def _told(piece: Iterable[tuple[Stored[SecretRecord], Settled]]) -> str:
    words = []
    for stored, after in piece:
        name = stored.record.name
        words += [f"{name}/{number} retired" for number in after.retired]
        words += [f"{name}/{number} destroyed" for number in after.destroyed]
    return ", ".join(words)
