"""What each kind of key is, run alone: the sequential models that histories are judged by. Pure.

A state is a hashable value; None is a key that does not exist. A step returns the state after an
operation, or IMPOSSIBLE if a single copy of the key could not have answered so.
"""

from collections.abc import Callable
from typing import Final, Literal

from tests.faults.history import Operation

State = tuple[int, str, str] | None
"""Number, content, and the content a rollback restores."""
IMPOSSIBLE: Final = "impossible"
Step = Callable[[State, Operation], "State | Literal['impossible']"]


def step(state: State, operation: Operation) -> "State | Literal['impossible']":
    """Return the state after `operation` by the model of its action."""
    return _STEPS[operation.action](state, operation)


def _create(state: State, operation: Operation) -> "State | Literal['impossible']":
    if operation.outcome == "fail":
        return state if operation.error != "already_exists" or state is not None else IMPOSSIBLE
    return (1, operation.argument, "") if state is None else IMPOSSIBLE


def _write(state: State, operation: Operation) -> "State | Literal['impossible']":
    """A rotation or an update: the number goes up by one, and the answer tells it."""
    if operation.outcome == "fail":
        return _refused(state, operation)
    if state is None or operation.expected not in {None, state[0]}:
        return IMPOSSIBLE
    number = state[0] + 1
    if operation.outcome == "ok" and operation.result != number:
        return IMPOSSIBLE
    return (number, operation.argument, state[1])


def _rollback(state: State, operation: Operation) -> "State | Literal['impossible']":
    if operation.outcome == "fail":
        return _refused(state, operation)
    if state is None or not state[2]:
        return IMPOSSIBLE
    number = state[0] + 1
    if operation.outcome == "ok" and operation.result != number:
        return IMPOSSIBLE
    return (number, state[2], state[1])


def _restore(state: State, operation: Operation) -> "State | Literal['impossible']":
    """A rollback of a secret: what was primary before is so again, under its own number."""
    if operation.outcome == "fail":
        return _refused(state, operation)
    if state is None or not state[2]:
        return IMPOSSIBLE
    return (state[0], state[2], state[1])


def _refused(state: State, operation: Operation) -> "State | Literal['impossible']":
    match operation.error:
        case "stale_version":
            # Decided again a few times, a write without a compare may lose every race.
            holds = operation.expected is None or state is None or operation.expected != state[0]
        case code if code.endswith("_not_found"):
            holds = state is None
        case "conflict":
            # A rotation is refused too while too many versions are active.
            wants_before = operation.action in {"rollback", "restore"}
            holds = not wants_before or state is None or not state[2]
        case _:
            holds = True
    return state if holds else IMPOSSIBLE


def _assign(state: State, operation: Operation) -> "State | Literal['impossible']":
    """A plain register, such as a node's label."""
    return state if operation.outcome == "fail" else (0, operation.argument, "")


def _remove(state: State, operation: Operation) -> "State | Literal['impossible']":
    if operation.outcome == "fail":
        return _refused(state, operation)
    return None if state is not None else IMPOSSIBLE


def _read(state: State, operation: Operation) -> "State | Literal['impossible']":
    if operation.outcome != "ok":
        return state
    if state is None:
        return state if operation.result is None else IMPOSSIBLE
    right_content = operation.value in {"", state[1]}
    return state if operation.result == state[0] and right_content else IMPOSSIBLE


def _issue(state: State, operation: Operation) -> "State | Literal['impossible']":
    """What a node is issued: the primary's value, whatever its number."""
    if operation.outcome != "ok":
        return state
    return state if state is not None and operation.value == state[1] else IMPOSSIBLE


_STEPS: Final[dict[str, Step]] = {
    "create": _create,
    "rotate": _write,
    "update": _write,
    "rollback": _rollback,
    "assign": _assign,
    "remove": _remove,
    "read": _read,
    "issue": _issue,
    "restore": _restore,
}
