"""Accepting: handshakes are bounded by address and in all, and the one in need gets room."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from cluster.api.accepting import AcceptLoop, Doors, place_of
from cluster.pki import tls
from cluster.protocol.identity import Kind
from tests.support.authority import ClusterAuthority

pytestmark = pytest.mark.threat("T-46")


class Greeting(asyncio.Protocol):
    """Says a word once a handshake is done."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


@contextlib.asynccontextmanager
async def accepting(doors: Doors) -> AsyncIterator[tuple[AcceptLoop, int, ClusterAuthority]]:
    authority = ClusterAuthority()
    manager = authority.issue(Kind.MANAGER)
    context = tls.server_context(manager.chain_pem, manager.key_pem, None)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        loop = AcceptLoop(bound, context, Greeting, doors)
        loop.start(100)
        try:
            yield loop, bound.getsockname()[1], authority
        finally:
            loop.close()
            await loop.wait_closed()


async def silent(port: int, source: str) -> asyncio.StreamReader:
    """Connect and say nothing."""
    reader, _writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    _KEPT.append(_writer)
    return reader


_KEPT: list[asyncio.StreamWriter] = []


@pytest.fixture(autouse=True)
async def closed() -> AsyncIterator[None]:
    """Close what a test left open."""
    yield
    for writer in _KEPT:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    _KEPT.clear()


async def greeted(port: int, authority: ClusterAuthority, source: str = "127.0.0.9") -> bytes:
    """Shake hands and return what is said."""
    context = tls.client_context(authority.control_der)
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, local_addr=(source, 0)
        )
    except OSError:
        return b""
    _KEPT.append(writer)
    async with asyncio.timeout(30):
        return await reader.read()


async def ended(reader: asyncio.StreamReader) -> bool:
    """Return whether the other side closes; it would wait for a handshake for 5 s."""
    try:
        async with asyncio.timeout(2):
            return await reader.read() == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110  # nothing signals it
            await asyncio.sleep(0.01)


async def test_address_that_has_its_share_is_closed_and_another_is_served() -> None:
    async with accepting(Doors(per_address=3, together=100)) as (loop, port, authority):
        held = [await silent(port, "127.0.0.2") for _ in range(3)]
        assert await ended(await silent(port, "127.0.0.2"))
        assert loop.refused == 1
        assert await greeted(port, authority) == b"hello"
        assert not await ended(held[0])


async def test_who_holds_most_makes_room_for_who_needs_one() -> None:
    async with accepting(Doors(per_address=3, together=4)) as (loop, port, authority):
        first = [await silent(port, "127.0.0.2") for _ in range(3)]
        await silent(port, "127.0.0.3")
        assert await greeted(port, authority) == b"hello"
        assert await ended(first[0]), "the oldest of the busiest went"
        assert loop.refused == 1


async def test_nobody_makes_room_for_one_who_holds_as_many() -> None:
    async with accepting(Doors(per_address=2, together=2)) as (loop, port, _authority):
        held = [await silent(port, f"127.0.0.{number}") for number in (2, 3)]
        assert await ended(await silent(port, "127.0.0.2"))
        assert loop.refused == 1
        assert not await ended(held[0])


async def test_finished_handshakes_are_counted_no_more() -> None:
    async with accepting(Doors(per_address=1, together=1)) as (loop, port, authority):
        for _ in range(5):
            assert await greeted(port, authority) == b"hello"
        assert loop.refused == 0
        garbage, writer = await asyncio.open_connection("127.0.0.1", port)
        _KEPT.append(writer)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await garbage.read()
        await until(lambda: loop._together == 0)
        assert loop._unfinished == {}


async def test_closed_loop_leaves_nothing_behind() -> None:
    async with accepting(Doors()) as (loop, port, _authority):
        reader = await silent(port, "127.0.0.2")
        await until(lambda: loop._together == 1)
        loop.close()
        await loop.wait_closed()
        assert await ended(reader)
        await until(lambda: loop._together == 0)
        assert loop._bound.fileno() == -1


def test_ipv6_counts_by_its_network() -> None:
    one, other = (place_of((f"2001:db8::{number}", 1, 0, 0)) for number in (1, 2))
    assert one == other
    assert place_of(("2001:db8:0:1::1", 1, 0, 0)) != one
    assert place_of(("10.0.0.1", 5)) == "10.0.0.1"
    assert place_of("") == "local"


@pytest.mark.control("T-46", without="cluster/api/accepting.py::AcceptLoop")
async def test_one_address_takes_everything_without_doors() -> None:
    async def fourth_is_closed(doors: Doors) -> bool:
        async with accepting(doors) as (_loop, port, _authority):
            for _ in range(3):
                await silent(port, "127.0.0.2")
            return await ended(await silent(port, "127.0.0.2"))

    assert await fourth_is_closed(Doors(per_address=3, together=100))
    assert not await fourth_is_closed(Doors(per_address=10**6, together=10**6))
