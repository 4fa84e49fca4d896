"""One process of a load generator: callers with kept connections, as cheap as Python makes them.

`tests.bench.load` starts it and talks to it line by line in JSON: first whom to call and how, then
a line a round; it answers each with the round's seconds, its own processor time and every latency.
Any HTTP/1.1 server will do, over TLS, plain, or a unix socket: the peers are called the same way.
"""

import asyncio
import base64
import json
import re
import resource
import ssl
import sys
import time
from collections.abc import Iterator
from typing import Any, Final, cast

import uvloop

PLACE: Final = b"@number@"
"""Where a request's own number goes, in target and body."""
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_HEAD_ENDS: Final = b"\r\n\r\n"
_CHUNKS_END: Final = b"0\r\n\r\n"


class Round:
    """The requests of one round, shared by the callers of this process."""

    def __init__(self, asked: bytes, first: int, count: int, callers: int) -> None:
        self.waiting: Iterator[bytes] = (
            asked.replace(PLACE, str(number).encode()) for number in range(first, first + count)
        )
        self.latencies_ms: list[float] = []
        self.refused: list[str] = []
        self.done = asyncio.get_running_loop().create_future()
        self._busy = callers

    def finished(self) -> None:
        """Note that one caller found nothing more to ask."""
        self._busy -= 1
        if not self._busy:
            self.done.set_result(None)

    def fail(self, error: Exception | None) -> None:
        """End the round: a connection broke."""
        if not self.done.done():
            self.done.set_exception(error or ConnectionResetError("the server closed a connection"))


class Caller(asyncio.Protocol):
    """One kept connection."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._round: Round | None = None
        self._answer = b""
        self._asked_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is no subclass

    @property
    def connected(self) -> bool:
        """Whether it can still ask; servers drop connections that rest."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._round is not None:
            self._round.fail(exc)

    def start(self, round_: Round) -> None:
        """Take part in a round."""
        self._round = round_
        self._ask()

    def _ask(self) -> None:
        assert self._round is not None
        assert self._transport is not None
        asked = next(self._round.waiting, None)
        if asked is None:
            round_, self._round = self._round, None
            round_.finished()
            return
        self._answer = b""
        self._asked_at = time.perf_counter()
        self._transport.write(asked)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if self._round is not None and complete(self._answer):
            self._round.latencies_ms.append((time.perf_counter() - self._asked_at) * 1_000)
            if not self._answer.startswith(b"HTTP/1.1 2"):
                self._round.refused.append(self._answer[-300:].decode(errors="replace"))
            self._ask()


def complete(answer: bytes) -> bool:
    """Return whether an answer is all there."""
    end = answer.find(_HEAD_ENDS)
    if end < 0:
        return False
    found = _LENGTH.search(answer, 0, end + 2)
    if found is not None:
        return len(answer) >= end + 4 + int(found.group(1))
    bodyless = answer.startswith((b"HTTP/1.1 204", b"HTTP/1.1 304"))
    return bodyless or answer.endswith(_CHUNKS_END)


def request_of(job: dict[str, Any]) -> bytes:
    """Return the bytes of a job's request; a length is that of the body with the longest number."""
    body = base64.b64decode(job["body"])
    digits = int(job["digits"])
    length = len(body) + body.count(PLACE) * (digits - len(PLACE))
    head = f"{job['method']} {job['target']} HTTP/1.1\r\nhost: localhost\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in job["headers"].items())
    return f"{head}content-length: {length}\r\n\r\n".encode() + body


def context_of(job: dict[str, Any]) -> ssl.SSLContext | None:
    """Return the TLS context a job needs, or None for plain HTTP."""
    if "control" in job:
        from cluster.pki.tls import client_context

        control, chain, key = (
            [base64.b64decode(der) for der in job["control"]],
            base64.b64decode(job["chain"]),
            base64.b64decode(job["key"]),
        )
        return client_context(control, chain, key)
    if "authority" in job:
        context = ssl.create_default_context(cadata=job["authority"])
        context.check_hostname = False
        return context
    return None


async def connect(endpoint: str, context: ssl.SSLContext | None) -> Caller:
    """Return a connection to `host:port` or `unix:PATH`."""
    loop = asyncio.get_running_loop()
    if endpoint.startswith("unix:"):
        _, caller = await loop.create_unix_connection(Caller, endpoint.removeprefix("unix:"))
        return caller
    host, _, port = endpoint.rpartition(":")
    name = host if context is not None else None
    _, caller = await loop.create_connection(
        Caller, host, int(port), ssl=context, server_hostname=name
    )
    return caller


def cpu_s() -> float:
    """Return the processor time this process took."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def serve() -> None:
    """Connect, then do the rounds that are asked for, until the input ends."""
    loop = asyncio.get_running_loop()
    job = json.loads(await loop.run_in_executor(None, sys.stdin.readline))
    context, asked = context_of(job), request_of(job)
    callers = [await connect(endpoint, context) for endpoint in job["endpoints"]]
    _say({"connected": len(callers)})
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        callers = [
            caller if caller.connected else await connect(endpoint, context)
            for caller, endpoint in zip(callers, job["endpoints"], strict=True)
        ]
        round_ = Round(asked, order["first"], order["count"], len(callers))
        used, started = cpu_s(), time.perf_counter()
        for caller in callers:
            caller.start(round_)
        await round_.done
        _say(
            {
                "seconds": time.perf_counter() - started,
                "cpu_s": cpu_s() - used,
                "latencies_ms": round_.latencies_ms,
                "refused": round_.refused[:3],
            }
        )


def _say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(serve())
