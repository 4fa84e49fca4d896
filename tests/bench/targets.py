"""What the figures should be: a bound for a row, by its name.

They are aims for a quiet machine of two cores; nothing fails when one is missed.
"""

from dataclasses import dataclass
from typing import Final

AT_MOST: Final = "<="
AT_LEAST: Final = ">="


@dataclass(frozen=True, slots=True)
class Target:
    """A bound, in the row's own unit."""

    bound: str
    value: float

    def __str__(self) -> str:
        return f"{self.bound} {self.value:g}"

    def met(self, value: float) -> bool:
        """Return whether a value keeps to it."""
        return value <= self.value if self.bound == AT_MOST else value >= self.value

    def missed_by(self, value: float) -> float:
        """Return how many times as good a value would have to be; 1 or less where it is met."""
        better, worse = (self.value, value) if self.bound == AT_MOST else (value, self.value)
        return worse / better if better else float("inf")


CREATE_MANY: Final = "create, 64 callers"
CREATE_MANY_P99: Final = "create, 64 callers, p99"
CREATE_OVER_PUT: Final = "create over raw engine put, 1 caller"
ISSUE: Final = "issue by certificate, one manager, 32 connections"
TO_FILE: Final = "rotate to new bytes in the file, 1 node, p50"
TO_FILE_P99: Final = "rotate to new bytes in the file, 1 node, p99"
FIRST_WRITE: Final = "kill -9 of the leader to first write, p50"
FIRST_WRITE_MAX: Final = "kill -9 of the leader to first write, max"
GET: Final = "strongroom-agent get, cold"
LISTED: Final = "strongroom secret ls, 1000 secrets, cold"
AGENT_MEMORY: Final = "memory of an agent"
MANAGER_MEMORY: Final = "memory of a manager, 1000 agents, 1000 secrets"
ENGINE_MEMORY: Final = "memory of its etcd member, 1000 agents, 1000 secrets"
FLEET_LAST: Final = "rotate to the last of 1000 agents' files"
FLEET_ACKED: Final = "rotate to the last of 1000 agents' acks"
FLEET_BACK: Final = "1000 agents served again after a manager dies"
START: Final = "start of a manager, 100000 secrets"
DELIVERY_GROWTH: Final = "cost per delivery, 5000 agents over 1"
DELIVERY_GROWTH_LATE: Final = "cost per delivery, 5000 agents over 1000"
SECRETS_GROWTH: Final = "cost per delivery, 100000 secrets over 100"
SERVICES_GROWTH: Final = "cost per delivery, 1000 services over 1"

_TARGETS: Final[dict[str, Target]] = {
    CREATE_MANY: Target(AT_LEAST, 3_000),
    CREATE_MANY_P99: Target(AT_MOST, 60),
    CREATE_OVER_PUT: Target(AT_LEAST, 0.8),
    ISSUE: Target(AT_LEAST, 4_000),
    TO_FILE: Target(AT_MOST, 15),
    TO_FILE_P99: Target(AT_MOST, 50),
    FIRST_WRITE: Target(AT_MOST, 0.8),
    FIRST_WRITE_MAX: Target(AT_MOST, 1.2),
    GET: Target(AT_MOST, 45),
    LISTED: Target(AT_MOST, 120),
    AGENT_MEMORY: Target(AT_MOST, 40),
    MANAGER_MEMORY: Target(AT_MOST, 140),
    ENGINE_MEMORY: Target(AT_MOST, 100),
    FLEET_LAST: Target(AT_MOST, 100),
    FLEET_ACKED: Target(AT_MOST, 150),
    FLEET_BACK: Target(AT_MOST, 2),
    START: Target(AT_MOST, 5),
    DELIVERY_GROWTH: Target(AT_MOST, 1.2),
    DELIVERY_GROWTH_LATE: Target(AT_MOST, 1.2),
    SECRETS_GROWTH: Target(AT_MOST, 1.2),
    SERVICES_GROWTH: Target(AT_MOST, 1.2),
}


def target_of(name: str) -> Target | None:
    """Return a row's target, or None."""
    return _TARGETS.get(name)
