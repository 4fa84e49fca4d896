"""What was checked and how strong it is: the words that proofs, hardening and `doctor` share, on
nodes and on managers.

Owns no check itself. Standard library only: the agent's command line prints these without its
dependencies.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Strength(StrEnum):
    """How far a protection reaches."""

    SECURE = "secure"
    WEAK = "weak"
    INSECURE = "insecure"


_ORDER = (Strength.SECURE, Strength.WEAK, Strength.INSECURE)


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: `detail` says what was seen and, where it is not secure, what to do."""

    name: str
    strength: Strength
    detail: str


def weakest(checks: Iterable[Check]) -> Strength:
    """Return the lowest strength among `checks`; a chain is as strong as that."""
    return max((check.strength for check in checks), key=_ORDER.index, default=Strength.SECURE)


def either(name: str, *, good: bool, yes: str, no: str, otherwise: Strength) -> Check:
    """Return a check that found what it should, or is `otherwise`."""
    return Check(name, Strength.SECURE, yes) if good else Check(name, otherwise, no)
