"""Rollback detection while running: may this state follow what was seen of its key before?

Pure; remembers for every key the highest generation it saw, and goes on remembering after a
removal. The generation comes from the envelope, so whoever can write to the engine may replay
sealed states but can mint none. Source: ADR 0004.

Ids of most kinds are never used again, so whatever follows a removal is a replay. Names, tasks and
the like do come back. Who creates one starts above the revision his view has reached, and so above
all that it has seen; only a record that lived and died between his view and his commit can have a
higher generation than its successor. Such a successor is told from a replay by its ciphertext:
every seal is salted, so bytes that were seen before were copied.
"""

from collections import OrderedDict
from hashlib import sha256
from typing import Final

import msgspec

from cluster.store.records import Kind

MAX_REMOVED: Final = 100_000
"""Removed keys that are remembered; older removals are forgotten, the oldest first."""
MAX_SEALS: Final = 64
"""States of a key that can return whose ciphertext is remembered."""

RETURNING: Final = frozenset(
    {
        Kind.NAME,
        Kind.TASK,
        Kind.TASK_STATUS,
        Kind.RECEIPT,
        Kind.OPERATOR,
        Kind.NODE_STATUS,
        Kind.REQUEST,
    }
)
"""Kinds whose ids may be used again after a removal."""


class _Past(msgspec.Struct, frozen=True, gc=False):
    generation: int
    seal: bytes
    """Digest of the newest state's ciphertext."""
    earlier: tuple[bytes, ...] = ()
    """The same for the states before it; kept for kinds that return."""


class History:
    """What was seen of every key."""

    def __init__(self) -> None:
        self._present: dict[bytes, _Past] = {}
        self._removed: OrderedDict[bytes, _Past] = OrderedDict()

    def admit(
        self, kind: Kind, key: bytes, generation: int, sealed: bytes, *, recreated: bool = False
    ) -> str | None:
        """Remember a state and return None, or return what is wrong with it.

        `recreated`: the engine says that the key was removed and created since it was last looked
        at.
        """
        seal = sha256(sealed).digest()[:16]
        if recreated:
            self.remove(key)
        past, wrong = self._present.get(key), None
        if past is not None:
            wrong = _following(past, generation, seal)
        elif (past := self._removed.get(key)) is not None:
            wrong = _returning(kind, past, generation, seal)
            if wrong is None:
                del self._removed[key]
        if wrong is None:
            self._present[key] = _next(kind, past, generation, seal)
        return wrong

    def remove(self, key: bytes) -> None:
        """Remember that a key was removed."""
        past = self._present.pop(key, None)
        if past is None:
            return
        self._removed[key] = past
        while len(self._removed) > MAX_REMOVED:
            self._removed.popitem(last=False)

    def generation(self, key: bytes) -> int:
        """Return the generation of a key that is present, or 0."""
        past = self._present.get(key)
        return 0 if past is None else past.generation

    def floor(self, key: bytes) -> int:
        """Return the highest generation seen of a removed key, or 0."""
        past = self._removed.get(key)
        return 0 if past is None else past.generation


def _following(past: _Past, generation: int, seal: bytes) -> str | None:
    # A successor may stand below the state that it followed, so the ciphertext is looked at as
    # well.
    if generation < past.generation or seal in past.earlier:
        return "a generation went back"
    if generation == past.generation and seal != past.seal:
        return "a generation came twice with different content"
    return None


def _returning(kind: Kind, past: _Past, generation: int, seal: bytes) -> str | None:
    if kind not in RETURNING:
        return "a removed record came back"
    known = (past.seal, *past.earlier)
    if generation <= past.generation and (seal in known or len(known) >= MAX_SEALS):
        return "a removed record was replayed"
    return None


def _next(kind: Kind, past: _Past | None, generation: int, seal: bytes) -> _Past:
    if past is None:
        return _Past(generation, seal)
    if seal == past.seal:
        return msgspec.structs.replace(past, generation=generation)
    if kind not in RETURNING:
        return _Past(generation, seal)
    return _Past(generation, seal, (past.seal, *past.earlier)[: MAX_SEALS - 1])
