"""Where a manager stands: the words that `status`, health and the log use."""

from enum import StrEnum


class State(StrEnum):
    """Where a manager stands."""

    EMPTY = "empty"
    LOCKED = "locked"
    STARTING = "starting"
    SERVING = "serving"
    MIGRATING = "migrating"
    RECOVERING = "recovering"
    FAILED = "failed"
