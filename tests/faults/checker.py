"""Is a history of one key linearizable? And did a watch see every change once and in order? Pure.

Theory of operation. Wing and Gong's search with Lowe's memory: walk the calls and returns by time,
try each call whose turn it may be, and remember (operations taken, state) so that no situation is
searched twice. A call without a known outcome may be taken at any time after its start, or never.
Linearizability is local (Herlihy and Wing), so keys are judged one by one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.faults.history import FOREVER, Operation, until
from tests.faults.models import IMPOSSIBLE, State, step

SEARCH_LIMIT = 3_000_000
"""Steps of one search; a history that takes more is reported as undecided, never as right."""


class Undecided(Exception):  # noqa: N818  # an answer, not an error of the program
    """The search took too long."""


@dataclass(slots=True, eq=False)
class _Node:
    """A call or a return in the list of what is left to explain."""

    operation: Operation
    bit: int
    returns: "_Node | None" = None
    """Of a call, its return; None in a return."""
    before: "_Node | None" = None
    after: "_Node | None" = None

    def lift(self) -> None:
        """Take a call and its return out of the list."""
        for node in (self, self.returns):
            if node is not None:
                if node.before is not None:
                    node.before.after = node.after
                if node.after is not None:
                    node.after.before = node.before

    def unlift(self) -> None:
        """Put them back where they were."""
        for node in (self.returns, self):
            if node is not None:
                if node.before is not None:
                    node.before.after = node
                if node.after is not None:
                    node.after.before = node


def linearizable(operations: Sequence[Operation], initial: State = None) -> bool:
    """Return whether one copy of the key, used by one client at a time, explains every answer.

    Raises Undecided.
    """
    useful = [one for one in operations if one.outcome != "unknown" or one.action not in _READS]
    head = _listed(useful)
    claimed = _claimed(useful)
    known = sum(1 << index for index, one in enumerate(useful) if one.outcome != "unknown")
    state: State = initial
    taken = 0
    seen: set[tuple[int, State]] = set()
    trail: list[tuple[Iterator[_Node], _Node, State]] = []
    turns = _turns(head, state)
    steps = 0
    while taken & known != known:
        node = next(turns, None)
        if node is None:
            if not trail:
                return False
            turns, node, state = trail.pop()
            taken &= ~node.bit
            node.unlift()
            continue
        steps += 1
        if steps > SEARCH_LIMIT:
            raise Undecided
        operation = node.operation
        takes_number = operation.outcome == "unknown" and operation.action != "restore"
        if takes_number and state is not None and state[0] + 1 in claimed:
            continue  # the number it would take is another's
        after = step(state, operation)
        if after != IMPOSSIBLE and (taken | node.bit, after) not in seen:
            seen.add((taken | node.bit, after))
            trail.append((turns, node, state))
            state, taken = after, taken | node.bit
            node.lift()
            turns = _turns(head, state)
    return True


def _turns(head: _Node, state: State) -> Iterator[_Node]:
    """Return the calls whose turn it may be: those that had not returned when any other began.

    What only asks and fits comes alone, because whatever explains the history with it later does
    so with it here. Of what changes the key, that which returned first is tried first: a call that
    was open for minutes most often took effect at its end.
    """
    calls = []
    node = head.after
    while node is not None and node.returns is not None:
        if _only_asks(node.operation) and step(state, node.operation) == state:
            return iter((node,))
        calls.append(node)
        node = node.after
    return iter(sorted(calls, key=lambda one: one.operation.end))


def _only_asks(operation: Operation) -> bool:
    return operation.action in _READS or operation.outcome == "fail"


_READS = frozenset({"read", "issue"})
_WRITES = frozenset({"rotate", "update", "rollback"})


def _claimed(operations: Sequence[Operation]) -> frozenset[int]:
    """Return the numbers that acknowledged writes were given, if no number is given twice."""
    creations = [one for one in operations if one.action in {"create", "remove", "assign"}]
    if len(creations) != 1:
        return frozenset()
    return frozenset(one.result for one in operations if one.action in _WRITES and one.result)


def _listed(operations: Sequence[Operation]) -> _Node:
    """Return the head of the list of calls and returns by time; at one time calls come first."""
    moments: list[tuple[float, int, int, _Node]] = []
    for index, operation in enumerate(operations):
        returned = _Node(operation, 1 << index)
        called = _Node(operation, 1 << index, returns=returned)
        end = FOREVER if operation.outcome == "unknown" else operation.end
        moments += [(operation.start, 0, index, called), (end, 1, index, returned)]
    head = last = _Node(operations[0] if operations else Operation(0, "", "", "read"), 0)
    for *_, node in sorted(moments, key=lambda one: one[:3]):
        last.after, node.before = node, last
        last = node
    return head


def smallest_failing(operations: Sequence[Operation], initial: State = None) -> list[Operation]:
    """Return the shortest beginning of a failing history that fails, less the reads that do not
    matter."""
    ends = sorted({one.end for one in operations if one.end != FOREVER})
    low, high = 0, len(ends) - 1
    while low < high:
        middle = (low + high) // 2
        if linearizable(list(until(operations, ends[middle])), initial):
            low = middle + 1
        else:
            high = middle
    left = list(until(operations, ends[low]))
    for one in [operation for operation in left if operation.action in _READS]:
        fewer = [operation for operation in left if operation is not one]
        if not linearizable(fewer, initial):
            left = fewer
    return left


def lost_writes(operations: Iterable[Operation]) -> list[Operation]:
    """Return the acknowledged numbered writes that a later read does not cover.

    Linearizability implies it; a plain answer to "what was lost" is worth its few lines.
    """
    ordered = sorted(operations, key=lambda one: one.end)
    if any(one.action == "remove" for one in ordered):
        return []
    # What is issued after a rollback has a lower number.
    reads = [one for one in ordered if one.action == "read" and one.outcome == "ok"]
    writes = [one for one in ordered if one.action in {"rotate", "update"} and one.outcome == "ok"]
    last = max(reads, key=lambda one: one.start, default=None)
    if last is None:
        return []
    return [
        one for one in writes if one.end < last.start and (last.result or 0) < (one.result or 0)
    ]


# --- watches ---

Change = tuple[str, str]
"""A key in hex, and the digest of its new value; empty for a removal."""


@dataclass(slots=True)
class Watched:
    """What one watch brought without a break: revision -> changes, in the order of arrival."""

    name: str
    batches: list[tuple[int, tuple[Change, ...]]] = field(default_factory=list)
    from_start: bool = False
    """Whether it began with the first revision of all."""


def watch_faults(watches: Sequence[Watched]) -> list[str]:
    """Return what is wrong: a step back, a duplicate, a gap, or two stories of one revision."""
    faults: list[str] = []
    everything: dict[int, tuple[str, frozenset[Change]]] = {}
    for watch in watches:
        last = 0
        for revision, changes in watch.batches:
            if revision <= last:
                faults.append(f"{watch.name}: revision {revision} came after {last}")
            last = max(last, revision)
            told = frozenset(changes)
            other = everything.setdefault(revision, (watch.name, told))
            if other[1] != told:
                faults.append(f"{watch.name} and {other[0]} tell revision {revision} differently")
    for watch in watches:
        faults += _gaps(watch, everything)
    return faults


def unbroken(watches: Sequence[Watched]) -> int:
    """Return the revision up to which the watches together brought everything."""
    spans = [
        (0 if watch.from_start else watch.batches[0][0], watch.batches[-1][0])
        for watch in watches
        if watch.batches
    ]
    reached = 0
    for first, last in sorted(spans):
        if first > reached + 1:
            break
        reached = max(reached, last)
    return reached


def _gaps(watch: Watched, everything: Mapping[int, object]) -> list[str]:
    if not watch.batches:
        return []
    had = {revision for revision, _ in watch.batches}
    first, last = min(had), max(had)
    return [
        f"{watch.name}: revision {revision} is missing between {first} and {last}"
        for revision in sorted(everything)
        if first <= revision <= last and revision not in had
    ]
