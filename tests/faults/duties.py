"""Judges who did what under the duty that one manager at a time holds: nobody acts once it is lost.

The campaign's key lies in the same engine as the records, so revisions put both in one order, and
no timing matters: a write that passed although its guard no longer held is told by its audit link.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from cluster.control.policy import Action
from cluster.duties import DUTY as DUTY_NAME
from tests.faults.entitlements import KINDS, Event

DUTY: Final = "duty"
"""The kind of an event that tells who holds the duty; the record is gone while nobody does."""
LINK: Final = "link"
"""The kind of an event that tells what a manager did under the duty."""
DUTY_KEY: Final = DUTY_NAME.encode()
DUTY_ACTIONS: Final = frozenset(
    {
        Action.PLACEMENT_CHANGE,
        Action.ROLLOUT_UPDATE,
        Action.ROTATION_STEP,
        Action.RECORD_SWEEP,
        Action.CLUSTER_ALIVE,
        Action.AUDIT_TRIM,
        Action.SECRET_RETIRE,
        Action.SECRET_WARN,
    }
)
"""What only the holder does."""


def of_records(events: Iterable[Event]) -> list[Event]:
    """Return the events with nothing but the changes of records."""
    return [
        (revision, moment, [change for change in changes if change[0] in KINDS])
        for revision, moment, changes in events
    ]


def duty_faults(events: Iterable[Event], names: Mapping[str, str]) -> Iterator[str]:
    """Yield what was done under the duty by a manager that did not hold it.

    `names`: manager id -> name.
    """
    holder = ""
    for revision, _, changes in events:
        # A guard looks at the state before its transaction, which never writes the campaign's key.
        for kind, _, body in changes:
            if kind == LINK and body is not None and body["manager_id"] != holder:
                who = names.get(body["manager_id"], body["manager_id"])
                held = names.get(holder, holder) or "nobody"
                yield (
                    f"revision {revision}: {who} did {', '.join(body['actions'])}, "
                    f"and {held} held the duty"
                )
        for kind, _, body in changes:
            if kind == DUTY:
                holder = "" if body is None else body["holder"]


def terms(events: Iterable[Event]) -> int:
    """Return how often the duty was taken up."""
    return sum(
        kind == DUTY and body is not None for _, _, changes in events for kind, _, body in changes
    )
