"""Who is at the other end of a local socket.

Owns the proof; what the peer may have is decided by whoever asks. The path is the first half of
the identity (one socket a service, reachable by its uid and gid alone), the kernel's word on the
peer the second. A pid from SO_PEERCRED is never looked up: it can have been reused by another
process since; SO_PEERPIDFD (Linux 6.5) cannot. Source: unix(7), pidfd_open(2).
"""

import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agent import linux
from cluster.protocol.checks import Strength
from cluster.protocol.errors import PermissionDenied

_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Peer:
    """A connected process. `strength` is weak where the kernel cannot tell that it still lives."""

    uid: int
    gid: int
    pid: int
    strength: Strength


@contextmanager
def attested(connection: socket.socket, allowed: frozenset[int] | None) -> Iterator[Peer]:
    """Yield the peer of a connected unix socket if its uid is `allowed` (None: any).

    Raises PermissionDenied for another uid and for a process that has ended: what it would be told
    could reach whoever inherited its end.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    if allowed is not None and uid not in allowed:
        raise PermissionDenied
    try:
        pidfd = linux.peer_pidfd(connection)
    except ProcessLookupError:
        raise PermissionDenied from None
    if pidfd is None:
        yield Peer(uid, gid, pid, Strength.WEAK)
        return
    try:
        if _has_ended(pidfd):
            raise PermissionDenied
        yield Peer(uid, gid, pid, Strength.SECURE)
    finally:
        os.close(pidfd)


def _has_ended(pidfd: int) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))
