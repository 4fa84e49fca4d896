"""Ids, revisions and names: the small types both ends share.

Named tuples, because every command loads this: `dataclasses` would take longer than all else here.
"""

import base64
import re
from typing import NamedTuple, NewType

from cluster.protocol.errors import InvalidName, InvalidRequest

NodeId = NewType("NodeId", str)
ManagerId = NewType("ManagerId", str)
OperatorName = NewType("OperatorName", str)
SecretId = NewType("SecretId", str)
ServiceId = NewType("ServiceId", str)
TaskId = NewType("TaskId", str)
TokenId = NewType("TokenId", str)
RolloutId = NewType("RolloutId", str)
SessionId = NewType("SessionId", str)
VersionNumber = NewType("VersionNumber", int)
KeyEpoch = NewType("KeyEpoch", int)
Generation = NewType("Generation", int)

ID_SIZE = 16
"""Bytes of randomness in an id; 26 characters as text."""

_ID = re.compile(r"[a-z2-7]{26}")
_COUNT = re.compile(r"[0-9]{1,20}")
_UNIQUE = re.compile(r"[a-z2-7]{1,64}")
_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9._-]{0,62}[a-zA-Z0-9])?")
_SERVICE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_TARGET = re.compile(r"[a-zA-Z0-9_](?:[a-zA-Z0-9._-]{0,126}[a-zA-Z0-9_-])?")


def format_id(random_bytes: bytes) -> str:
    """Return 16 random bytes as a 26-character lower-case base32 id."""
    if len(random_bytes) != ID_SIZE:
        raise InvalidRequest(f"an id takes {ID_SIZE} bytes")
    return base64.b32encode(random_bytes).decode().rstrip("=").lower()


def is_id(text: str) -> bool:
    """Return whether `text` has the shape of an id."""
    return _ID.fullmatch(text) is not None


def check_name(text: str) -> str:
    """Return `text` if it is a valid secret, node or operator name (Swarm's rule), else raise
    InvalidName."""
    if _NAME.fullmatch(text) is None:
        raise InvalidName
    return text


def check_service_name(text: str) -> str:
    """Return `text` if it is a valid service name (a DNS label: it becomes a certificate's
    name)."""
    if _SERVICE_NAME.fullmatch(text) is None:
        raise InvalidName(
            "service names take 1 to 63 lower-case letters, digits and '-', and start and end "
            "with a letter or digit"
        )
    return text


def check_target(text: str) -> str:
    """Return `text` if it is a plain file name a secret may be written to.

    No slash, no leading dot: a target can never leave its directory nor shadow the `..data` swap.
    """
    if _TARGET.fullmatch(text) is None:
        raise InvalidName(
            "targets are plain file names of 1 to 128 letters, digits, '-', '_' and '.', "
            "not starting with '.' or '-'"
        )
    return text


class Incarnation(NamedTuple):
    """Which life of the store a revision belongs to: raised by migration, restore and quorum
    recovery."""

    counter: int
    unique: str

    def supersedes(self, other: "Incarnation") -> bool:
        """Return whether an agent that saw `other` may accept this one."""
        return self == other or self.counter > other.counter


class Revision(NamedTuple):
    """A point in the store's history as it appears on the wire."""

    incarnation: Incarnation
    number: int

    def __str__(self) -> str:
        return f"{self.incarnation.counter}.{self.incarnation.unique}.{self.number}"

    @classmethod
    def parse(cls, text: str) -> "Revision":
        """Return the revision that `str()` wrote, or raise InvalidRequest."""
        match text.split("."):
            case [counter, unique, number] if (
                _COUNT.fullmatch(counter) and _COUNT.fullmatch(number) and _UNIQUE.fullmatch(unique)
            ):
                return cls(Incarnation(int(counter), unique), int(number))
            case _:
                raise InvalidRequest("a revision reads COUNTER.ID.NUMBER")
