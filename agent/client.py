"""The agent's connections: mutual TLS to whichever manager answers, one WebSocket a link.

Owns sockets, the choice of the next manager and the end of a link at its certificate's notAfter.
It turns what happens into events for the loop and decides nothing about messages. Every connection
is checked to lead to a manager by its SPIFFE id: a worker's certificate chains to the same
authority. Source: DESIGN 5 and 6, RFC 6455.
"""

import asyncio
import logging
import ssl
from dataclasses import dataclass
from datetime import datetime

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from agent.identity import AgentIdentity, DataDirectory
from agent.joining import come_back
from cluster.pki.tls import client_context
from cluster.protocol import wire
from cluster.protocol.errors import ClusterError
from cluster.protocol.ids import is_id
from cluster.protocol.server_identity import manager_identity
from cluster.system import Clock, Entropy

log = structlog.get_logger(__name__)

SESSION_PATH = "/v1/session"
OPEN_TIMEOUT_S = 10.0
SEND_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 2.0
PING_PERIOD_S = 10.0
_QUEUE_LENGTH = 16

_SILENT = logging.getLogger("strongroom.silent")
"""The library logs the content of frames at debug level: values."""
_SILENT.disabled = True


@dataclass(frozen=True, slots=True)
class Connected:
    """A link is open."""

    link: int


@dataclass(frozen=True, slots=True)
class Received:
    """A link brought a message."""

    link: int
    message: wire.FromManager


@dataclass(frozen=True, slots=True)
class Closed:
    """A link ended; None: one could not be opened."""

    link: int | None


Event = Connected | Received | Closed


@dataclass(frozen=True, slots=True)
class _Link:
    connection: ClientConnection
    not_after: datetime


class Links:
    """The links of one agent. Its tasks belong to the group it is given."""

    def __init__(
        self,
        identity: AgentIdentity,
        data: DataDirectory,
        managers: tuple[str, ...],
        clock: Clock,
        entropy: Entropy,
        group: asyncio.TaskGroup,
    ) -> None:
        self.identity = identity
        self.events: asyncio.Queue[Event] = asyncio.Queue(_QUEUE_LENGTH)
        self._data = data
        self._managers = managers
        self._clock = clock
        self._entropy = entropy
        self._group = group
        self._links: dict[int, _Link] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = 0
        # Anywhere: agents that start together spread over the managers.
        self._next = int(entropy.uniform(0, 1_000_000))

    def open(self, delay_s: float = 0.0) -> None:
        """Open a link to the next manager after `delay_s`; Connected or Closed(None) follows."""
        task = self._group.create_task(self._run(delay_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def next_event(self, within_s: float) -> Event | None:
        """Return the next event, or None if none comes within so many seconds."""
        try:
            async with asyncio.timeout(within_s):
                return await self.events.get()
        except TimeoutError:
            return None

    async def send(self, link: int, message: wire.FromAgent) -> None:
        """Send over a link; one that is gone, or too slow, is left to its end event."""
        found = self._links.get(link)
        if found is None:
            return
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await found.connection.send(wire.encode(message))
        except (TimeoutError, WebSocketException, OSError):
            found.connection.transport.abort()

    async def close(self, link: int) -> None:
        """Close a link in good order, within a limit."""
        found = self._links.pop(link, None)
        if found is not None:
            await _close(found.connection)

    async def close_all(self) -> None:
        """Close every link and give up those being opened."""
        for link in list(self._links):
            await self.close(link)
        for task in list(self._tasks):
            task.cancel()

    def end_expired(self) -> None:
        """Cut the links whose certificate is over; the managers do so too."""
        now = self._clock.now()
        for number, link in self._links.items():
            if now >= link.not_after:
                log.warning("link.expired", link=number)
                link.connection.transport.abort()

    async def _run(self, delay_s: float) -> None:
        """One link, from its opening to its end."""
        await asyncio.sleep(delay_s)
        address = self._next_manager()
        try:
            connection = await self._connect(address)
        except (OSError, TimeoutError, WebSocketException, ClusterError) as error:
            log.warning("link.not_opened", manager=address, reason=_reason(error))
            await self.events.put(Closed(None))
            return
        self._count += 1
        number = self._count
        self._links[number] = _Link(connection, self.identity.validity[1])
        log.info("link.opened", link=number, manager=address)
        await self.events.put(Connected(number))
        try:
            await self._read(number, connection)
        finally:
            self._links.pop(number, None)
            connection.transport.abort()
        log.info("link.ended", link=number)
        await self.events.put(Closed(number))

    async def _connect(self, address: str) -> ClientConnection:
        identity = await self._current_identity()
        context = client_context(identity.bundle.control, identity.chain_pem, identity.key_pem)
        connection = await connect(
            f"wss://{address}{SESSION_PATH}",
            ssl=context,
            compression=None,  # a value's length would show in how well it compresses
            max_size=wire.MAX_MESSAGE_BYTES,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            ping_interval=PING_PERIOD_S,
            ping_timeout=PING_PERIOD_S,
            proxy=None,  # nobody stands between: a proxy variable must not reroute us
            user_agent_header=None,
            logger=_SILENT,
        )
        try:
            certificate = connection.transport.get_extra_info("peercert")
            manager_identity(certificate, identity.id.trust_domain)
        except ClusterError:
            connection.transport.abort()
            raise
        return connection

    async def _current_identity(self) -> AgentIdentity:
        """Return the identity, renewed over the join listener if its certificate is over."""
        if self._clock.now() >= self.identity.validity[1]:
            log.warning("identity.expired")
            self.identity = await asyncio.to_thread(come_back, self.identity, self._data)
            log.info("identity.returned")
        return self.identity

    async def _read(self, number: int, connection: ClientConnection) -> None:
        try:
            async for frame in connection:
                if not isinstance(frame, bytes):
                    log.warning("link.malformed", link=number)
                    return
                message = wire.decode_from_manager(frame)
                if isinstance(message, wire.Welcome):
                    # The manager's log has the session under the same id, which it drew: a text of
                    # another form is not repeated.
                    session_id = message.session_id if is_id(message.session_id) else ""
                    log.info("session.opened", link=number, session_id=session_id)
                await self.events.put(Received(number, message))
        except (WebSocketException, OSError):
            return
        except ClusterError as error:
            log.warning("link.malformed", link=number, code=error.code)

    def _next_manager(self) -> str:
        addresses = self._managers or self.identity.managers
        self._next += 1
        return addresses[self._next % len(addresses)]


def _reason(error: Exception) -> str:
    """Return why a link was not opened, in words that carry nothing secret."""
    if isinstance(error, ClusterError):
        return error.message
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason}"
    return str(error) or type(error).__name__


async def _close(connection: ClientConnection) -> None:
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await connection.close()
    except (TimeoutError, WebSocketException, OSError):
        connection.transport.abort()
