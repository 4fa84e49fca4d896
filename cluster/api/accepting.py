"""Accepting connections, with a bound on those whose handshake is not finished.

Owns a bound socket between the kernel's queue and the protocol. asyncio's own servers accept
whatever comes and hand it to TLS, where a peer that says nothing keeps its descriptor until the
handshake times out: one stranger without a certificate could take the descriptors of all agents.
Here each address has so many handshakes at most, and all together have so many: then the address
with the most loses its oldest, so that whoever holds many makes room for whoever needs one. What is
closed is counted and told by one line for all. Rates and requests are `limits`' business, what is
open after a handshake `peer`'s.
"""

import asyncio
import socket
import ssl
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Final

import structlog

from cluster.api.refused import CountRefused, Refused, uncounted

log = structlog.get_logger(__name__)

HANDSHAKE_TIMEOUT_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 5.0
"""How long a TLS close waits for the peer's answer."""
PAUSE_S: Final = 0.1
"""After an accept that the kernel refused, for want of descriptors as a rule."""
TELL_EVERY_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Doors:
    """How many handshakes may be unfinished at once."""

    per_address: int = 256
    """Of one address (IPv6: one /64). Many agents can come from one, and come all at once."""
    together: int = 512


class AcceptLoop:
    """Accepts on one socket until closed; belongs to one event loop."""

    def __init__(
        self,
        bound: socket.socket,
        context: ssl.SSLContext | None,
        protocol: Callable[[], asyncio.Protocol],
        doors: Doors,
        count_refused: CountRefused = uncounted,
    ) -> None:
        """`bound`: a socket that is bound; its owner closes it, at any time."""
        self._bound = bound.dup()
        self._context = context
        self._protocol = protocol
        self._doors = doors
        self._count_refused = count_refused
        # Insertion order, oldest first: dicts stand for ordered sets.
        self._unfinished: defaultdict[str, dict[asyncio.Task[None], None]] = defaultdict(dict)
        self._together = 0
        self._accepting: asyncio.Task[None] | None = None
        self._telling: asyncio.TimerHandle | None = None
        self.refused = 0
        """Connections that were closed at the door, since the start."""
        self._told = 0

    def start(self, backlog: int) -> None:
        """Listen and begin to accept."""
        self._bound.setblocking(False)
        self._bound.listen(backlog)
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    def close(self) -> None:
        """Accept no more; handshakes that are under way end with it."""
        for task in self._tasks():
            task.cancel()
        if self._telling is not None:
            self._telling.cancel()
        self._tell()

    async def wait_closed(self) -> None:
        """Return when nothing runs here any more."""
        if tasks := self._tasks():
            await asyncio.wait(tasks, timeout=HANDSHAKE_TIMEOUT_S)

    def _tasks(self) -> list[asyncio.Task[None]]:
        handshakes = [task for same in self._unfinished.values() for task in same]
        return [*handshakes, *([self._accepting] if self._accepting else [])]

    async def _accept(self) -> None:
        with self._bound:
            await self._accept_without_end()

    async def _accept_without_end(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(self._bound)
            except ConnectionError:  # it went away while it waited
                continue
            except OSError as error:
                log.warning("connections.not_accepted", reason=error.strerror)
                await asyncio.sleep(PAUSE_S)
                continue
            self._admit(connection, place_of(peer))

    def _admit(self, connection: socket.socket, place: str) -> None:
        own = len(self._unfinished.get(place, ()))
        if own >= self._doors.per_address or not self._has_room(own):
            connection.close()
            self._count_refusal()
            return
        task = asyncio.get_running_loop().create_task(self._shake_hands(connection))
        self._unfinished[place][task] = None
        self._together += 1
        task.add_done_callback(lambda task: self._forget(place, task))

    def _has_room(self, own: int) -> bool:
        """Return whether one more fits, for an address that has `own`; make room if need be."""
        if self._together < self._doors.together:
            return True
        busiest = max(self._unfinished.values(), key=len)
        if len(busiest) <= own + 1:
            return False
        oldest = next((task for task in busiest if not task.cancelling()), None)
        if oldest is None:
            return False
        oldest.cancel()
        self._count_refusal()
        return True

    def _forget(self, place: str, task: asyncio.Task[None]) -> None:
        self._together -= 1
        del self._unfinished[place][task]
        if not self._unfinished[place]:
            del self._unfinished[place]

    async def _shake_hands(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol,
                sock=connection,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if self._context else None,
                ssl_shutdown_timeout=CLOSE_TIMEOUT_S if self._context else None,
            )
        except OSError:  # ssl's errors too: a peer that we do not believe, or that is gone
            connection.close()
            self._count_refused(Refused.HANDSHAKE)
        except asyncio.CancelledError:
            connection.close()
            raise

    def _count_refusal(self) -> None:
        self.refused += 1
        self._count_refused(Refused.CROWD)
        if self._telling is None:
            loop = asyncio.get_running_loop()
            self._telling = loop.call_later(TELL_EVERY_S, self._tell)

    def _tell(self) -> None:
        self._telling = None
        if self.refused > self._told:
            log.warning("connections.refused", count=self.refused - self._told)
            self._told = self.refused


def place_of(peer: object) -> str:
    """Return what stands for a peer: its address, with IPv6 the /64 it can call from."""
    host = str(peer[0]) if isinstance(peer, tuple) and peer else "local"
    try:
        address = IPv6Address(host)
    except ValueError:
        return host
    return str(IPv6Network((int(address), 64), strict=False))
