"""One GET to a service on this machine's loopback, of which only the status counts.

Owns the exchange and its limits: no name is resolved, no redirect followed, no body read, nothing
kept. The answer may hold anything and goes nowhere. Source: RFC 9112, by h11.
"""

import asyncio
from contextlib import suppress

import h11

from cluster.protocol.loopback import LoopbackUrl

HEAD_LIMIT = 16 * 1024
"""Bytes of a status line and its headers."""
HEARD_LIMIT = 64 * 1024
"""Bytes that are read before a status was there, informational answers included."""
_READ_SIZE = 8 * 1024


async def fetch_status(url: LoopbackUrl) -> int | None:
    """Return the status of a GET, or None for an answer that is no HTTP.

    Raises OSError if nobody answers. The caller bounds the time.
    """
    reader, writer = await _connect(url)
    try:
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)
        headers = [("host", url.authority), ("user-agent", "strongroom-agent")]
        headers += [("accept", "*/*"), ("connection", "close")]
        request = h11.Request(method="GET", target=url.target, headers=headers)
        writer.write((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
        await writer.drain()
        return await _read_status(reader, http)
    finally:
        writer.transport.abort()


async def _connect(url: LoopbackUrl) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    *others, last = url.addresses
    for address in others:
        with suppress(OSError):
            return await asyncio.open_connection(address, url.port, limit=HEAD_LIMIT)
    return await asyncio.open_connection(last, url.port, limit=HEAD_LIMIT)


async def _read_status(reader: asyncio.StreamReader, http: h11.Connection) -> int | None:
    heard = 0
    try:
        while True:
            event = http.next_event()
            if isinstance(event, h11.Response):
                return event.status_code
            if event is h11.NEED_DATA:
                data = await reader.read(_READ_SIZE)
                heard += len(data)
                http.receive_data(data)
            elif not isinstance(event, h11.InformationalResponse):
                return None
            if heard > HEARD_LIMIT:
                return None
    except h11.RemoteProtocolError:
        return None
