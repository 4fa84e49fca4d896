"""The lease in force, kept for the agent's next process of the same boot.

Owns the file and what of it is believed: CLOCK_BOOTTIME means nothing in another boot. What a lease
covers is `agent.lease`'s. Source: DESIGN 6.
"""

from pathlib import Path

import msgspec

from agent import durable
from agent.lease import Grant
from cluster.protocol.undecodable import UNDECODABLE


class _Stored(msgspec.Struct, frozen=True):
    boot_id: str
    sent_s: float
    lease_s: float


class LeaseFile:
    """One agent's file. It lies in the run directory, which a boot empties."""

    def __init__(self, path: Path, boot_id: str) -> None:
        self._path = path
        self._boot_id = boot_id

    def save(self, granted: Grant) -> None:
        """Keep a grant; it is durable on return."""
        stored = _Stored(self._boot_id, granted.sent_s, granted.lease_s)
        durable.write(self._path, msgspec.json.encode(stored))

    def load(self) -> Grant | None:
        """Return what a process before this one was granted in this boot."""
        content = durable.read(self._path)
        try:
            stored = msgspec.json.decode(content or b"", type=_Stored)
        except UNDECODABLE:
            return None
        if stored.boot_id != self._boot_id:
            return None
        return Grant(stored.sent_s, stored.lease_s)
