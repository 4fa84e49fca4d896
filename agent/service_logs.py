"""Lines of services' output, for whoever asks a manager: from the keepers on this node.

Owns the asking and what one answer holds. Only a service that is in place here and keeps a log is
answered for. Keepers took the values out as lines came; those in place now are taken out once more
here, because a program may print a credential before it is handed it. Source: DESIGN 6,
docs/how-to/service-logs.md.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog

from agent.local_call import CutShort, Refused, ask
from agent.log_ring import Line
from agent.mount_table import MountTable
from agent.redaction import Net, redacted
from cluster.protocol.ids import is_id
from cluster.protocol.undecodable import UNDECODABLE
from cluster.protocol.wire import (
    LOG_BYTES,
    LOG_LINES,
    LogChunk,
    LogLine,
    LogRequest,
)
from cluster.system import Clock

log = structlog.get_logger(__name__)

AT_ONCE: Final = 4
"""Requests for a service that are answered at the same time at most; others are told to come back,
and services do not wait for each other."""
KEEPERS: Final = 8
"""Programs of one service that are asked, the newest ones."""
KEEPER_S: Final = 1.0
READ_S: Final = 4.0
"""For all keepers of one answer: a manager waits a second more, and a stop of the agent no more."""

Send = Callable[[int, LogChunk], Awaitable[None]]


class ServiceLogs:
    """Answers log requests of one node, each in a task of its own."""

    def __init__(
        self,
        run_dir: Path,
        table: MountTable,
        clock: Clock,
        group: asyncio.TaskGroup,
        send: Send,
    ) -> None:
        self._directory = run_dir / "logs"
        self._table = table
        self._clock = clock
        self._group = group
        self._send = send
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading: Counter[str] = Counter()
        """Requests that are being answered, by service id."""

    def answer(self, link: int, request: LogRequest) -> None:
        """Begin to answer a request over the link it came by."""
        task = self._group.create_task(self._answer(link, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """Give up what is under way."""
        for task in list(self._tasks):
            task.cancel()

    async def _answer(self, link: int, request: LogRequest) -> None:
        service = self._table.mounted.get(request.service_id)
        if service is None or not service.logs or not is_id(service.service_id):
            chunk = LogChunk(request.number, (), 0.0, "service_not_found")
        elif self._reading[service.service_id] >= AT_ONCE:
            chunk = LogChunk(request.number, (), 0.0, "too_many_requests")
        else:
            chunk = await self._found(service.service_id, request)
        await self._send(link, chunk)

    async def _found(self, service_id: str, request: LogRequest) -> LogChunk:
        directory, mount = self._directory / service_id, self._table.path_of(service_id)
        self._reading[service_id] += 1
        try:
            # In a thread: a keeper is asked over a blocking socket, each within its time.
            return await asyncio.to_thread(_read, directory, mount, request, self._clock)
        finally:
            self._reading[service_id] -= 1
            # No entry stays for a service that goes.
            self._reading += Counter()


def _read(directory: Path, mount: Path, request: LogRequest, clock: Clock) -> LogChunk:
    """Return what the keepers have up to now: what comes meanwhile is the next request's."""
    until_s = clock.boottime_s()
    end_s = clock.monotonic_s() + READ_S
    found: list[Line] = []
    after_s = request.after_s if request.after_s is not None else -1.0
    for path in _sockets(directory):
        left_s = end_s - clock.monotonic_s()
        lines = _asked(path, after_s, request, min(left_s, KEEPER_S)) if left_s > 0 else None
        if lines is None and request.after_s is not None:
            # A cursor behind what it has would hide that for ever: who follows asks again.
            return LogChunk(request.number, (), after_s, "unavailable")
        found += [line for line in lines or () if line.at_s <= until_s]
    lines = sorted(found, key=lambda line: line.at_s)
    limit = min(max(request.tail, 0), LOG_LINES)
    last = request.after_s is None
    lines = lines[len(lines) - limit if last and len(lines) > limit else 0 :]
    kept, cut_at_s = _bounded(lines, limit, last=last)
    patterns = Net(mount).patterns()
    shown = tuple(
        LogLine(
            line.time_s,
            line.stream,
            redacted(line.text.encode("utf-8", "replace"), patterns).decode("utf-8", "replace"),
        )
        for line in kept
    )
    return LogChunk(request.number, shown, until_s if cut_at_s is None else cut_at_s)


def _bounded(lines: list[Line], limit: int, *, last: bool) -> tuple[list[Line], float | None]:
    """Return what fits into a chunk, and the cursor behind it if the rest is to be asked for."""
    kept: list[Line] = []
    size = 0
    for line in reversed(lines) if last else lines:
        size += len(line.text)
        if kept and (size > LOG_BYTES or len(kept) >= limit):
            return (kept[::-1], None) if last else (kept, kept[-1].at_s)
        kept.append(line)
    return kept[::-1] if last else kept, None


def _sockets(directory: Path) -> list[Path]:
    """Return the sockets of the newest keepers."""
    with suppress(OSError):
        found = [path for path in directory.iterdir() if path.suffix == ".sock"]
        found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        return found[:KEEPERS]
    return []


def _asked(path: Path, after_s: float, request: LogRequest, timeout_s: float) -> list[Line] | None:
    """Return what a keeper has; None if it has more to say than it did."""
    fields: dict[str, object] = {"op": "logs", "after": after_s, "last": request.after_s is None}
    try:
        return _lines(ask(path, fields, timeout_s))
    except ConnectionRefusedError:
        # Its keeper was killed: nobody will ever answer there again.
        with suppress(OSError):
            path.unlink()
    except FileNotFoundError:
        pass  # it ended, and its lines with it
    except (OSError, CutShort) as error:
        log.info("logs.keeper_silent", reason=type(error).__name__)
        return None
    except (ValueError, Refused, *UNDECODABLE) as error:
        log.info("logs.keeper_not_understood", reason=type(error).__name__)
    return []


def _lines(body: bytes) -> list[Line]:
    return msgspec.json.decode(body, type=list[Line])
