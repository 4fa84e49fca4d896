"""Asking services whether they work: by a command, by HTTP on loopback, by their process.

Owns the checks in flight and their limits; when one is due and what it means is `agent.health`'s.
Each runs in a task of its own and ends with its time, so that none holds up the agent's loop. What
a check prints or answers goes nowhere: only a status does. With given volumes the agent has no
rights in the service, so that commands and processes cannot be asked for there. Source: DESIGN 6.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from agent.health import Basis, Finding, HealthWatch
from agent.loopback_http import fetch_status
from agent.on_change import service_processes
from agent.service_command import ServiceCommands
from cluster.protocol.errors import InvalidRequest
from cluster.protocol.loopback import parse_loopback_url
from cluster.protocol.wire import HealthReport, ServiceAssignment
from cluster.system import Clock

log = structlog.get_logger(__name__)

LONGEST_S: Final = 300.0
_SHORTEST_S: Final = 0.1
_GOOD: Final = range(200, 400)


class HealthChecks:
    """Runs the checks of one node's services."""

    def __init__(
        self,
        commands: ServiceCommands | None,
        path_of: Callable[[str], Path],
        clock: Clock,
        group: asyncio.TaskGroup,
    ) -> None:
        """`commands`: None where this agent may run nothing as a service. `path_of`: where a
        service's files are; raises KeyError for one that is not mounted.
        """
        self._commands = commands
        self._path_of = path_of
        self._clock = clock
        self._group = group
        self._watch = HealthWatch()
        self._tasks: dict[str, asyncio.Task[Finding]] = {}

    def follow(self, services: Iterable[ServiceAssignment]) -> None:
        """Take in what is in place now; a check of anything else is ended."""
        for service_id in self._watch.follow(services, self._clock.boottime_s()):
            self._tasks[service_id].cancel()

    def begin_due(self) -> None:
        """Begin the checks that are due."""
        for basis in self._watch.start_due(self._clock.boottime_s()):
            task = self._group.create_task(self._check(basis))
            self._tasks[basis.service_id] = task
            task.add_done_callback(partial(self._ended, basis))

    def reports(self, link: int) -> tuple[HealthReport, ...]:
        """Return the verdicts that are news to whoever is at the other end of `link`."""
        return self._watch.reports(link)

    def cancel(self) -> None:
        """End all checks and begin no more."""
        self.follow(())

    def _ended(self, basis: Basis, task: asyncio.Task[Finding]) -> None:
        """Take in how a check ended, also one that was given up before it began."""
        del self._tasks[basis.service_id]
        finding = None if task.cancelled() or task.exception() else task.result()
        if finding is not None and not finding.healthy:
            log.info("health.failed", service=basis.name, detail=finding.detail)
        self._watch.finish(basis, finding, self._clock.boottime_s())

    async def _check(self, basis: Basis) -> Finding:
        timeout_s = min(max(basis.check.timeout_s, _SHORTEST_S), LONGEST_S)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._find(basis, timeout_s)
        except TimeoutError:
            return Finding(healthy=False, detail=f"timed out after {timeout_s:g} s")
        except OSError:
            return Finding(healthy=False, detail="the check could not be started")

    async def _find(self, basis: Basis, timeout_s: float) -> Finding:
        if basis.check.kind == "http":
            return await _ask_url(basis.check.url)
        if basis.check.kind not in {"exec", "process"}:
            return Finding(
                healthy=False, detail="this agent does not know such a check; upgrade it"
            )
        if self._commands is None:
            return Finding(
                healthy=False,
                detail="this node has given volumes: it can check a url, no command or process",
            )
        if basis.check.kind == "exec":
            code = await self._commands.run(basis.name, basis.check.command, timeout_s)
            return Finding(code == 0, f"exit status {code}" if code else "")
        ours = frozenset(self._commands.supervisors)
        path = self._path_of(basis.service_id)
        # In a thread: it reads the status of every process there is.
        runs = await asyncio.to_thread(_is_running, path, basis.uid, ours)
        return Finding(runs, "" if runs else "not running")


async def _ask_url(url: str) -> Finding:
    try:
        status = await fetch_status(parse_loopback_url(url))
    except InvalidRequest:
        return Finding(healthy=False, detail="the url is not one of loopback")
    except OSError:
        return Finding(healthy=False, detail="no connection")
    if status is None:
        return Finding(healthy=False, detail="no http answer")
    return Finding(status in _GOOD, "" if status in _GOOD else f"http status {status}")


def _is_running(mount_path: Path, uid: int, ours: frozenset[int]) -> bool:
    return any(True for _ in service_processes(mount_path, uid, ours))
