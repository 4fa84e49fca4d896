"""The processes a lab runs: started, watched, ended; and remembered on disk with their start times.

A pid alone is never trusted: only with the start time the kernel gave it, and the boot it was of.
"""

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from docs.lab.layout import Layout

STOP_TIMEOUT_S = 20.0
_START_TIME = 19
"""Of the fields in /proc/PID/stat behind the command's closing bracket."""


@dataclass(slots=True)
class Process:
    """One process of the lab, with a session of its own: Ctrl-C reaches the lab alone."""

    name: str
    popen: "subprocess.Popen[bytes]"
    log: Path
    identity: str

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.popen.poll() is None

    def last_lines(self, count: int = 8) -> list[str]:
        """Return the end of its log."""
        return self.log.read_text(errors="replace").splitlines()[-count:]


class Processes:
    """All processes of one lab, by name."""

    def __init__(self, layout: Layout, environment: Mapping[str, str]) -> None:
        self._layout = layout
        self._environment = dict(environment)
        self._running: dict[str, Process] = {}

    def __getitem__(self, name: str) -> Process:
        return self._running[name]

    def __contains__(self, name: str) -> bool:
        return name in self._running

    def start(self, name: str, command: Sequence[str]) -> Process:
        """Start a process; its output goes to its log."""
        log = self._layout.logs / f"{name}.log"
        with log.open("ab") as output:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self._layout.repository,
                start_new_session=True,
            )
        process = Process(name, popen, log, identity_of(popen.pid))
        self._running[name] = process
        self._file(name).write_text(json.dumps({"pid": popen.pid, "identity": process.identity}))
        return process

    def identities(self) -> dict[str, str]:
        """Return pid and start time of everything that runs."""
        return {
            name: f"{process.popen.pid} {process.identity}"
            for name, process in self._running.items()
            if process.is_running
        }

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process that goes on, or is to stand still for a while."""
        self._running[name].popen.send_signal(number)

    def stop(self, name: str) -> None:
        """End a process as its supervisor would: with SIGTERM."""
        self._end(self._running.pop(name), signal.SIGTERM)

    def kill(self, name: str) -> None:
        """End a process as a power cut would: with SIGKILL."""
        self._end(self._running.pop(name), signal.SIGKILL)

    def stop_all(self) -> None:
        """End everything, all at once: the last manager would wait for a quorum that left."""
        for process in self._running.values():
            process.popen.terminate()
            # What a story holds still could not end otherwise.
            process.popen.send_signal(signal.SIGCONT)
        for process in self._running.values():
            self._end(process, signal.SIGTERM)
        self._running.clear()

    def _end(self, process: Process, number: signal.Signals) -> None:
        process.popen.send_signal(number)
        try:
            process.popen.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.popen.kill()
            process.popen.wait(STOP_TIMEOUT_S)
        self._file(process.name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._layout.process_files / f"{name}.json"


def end_leftovers(directory: Path) -> list[str]:
    """End the processes that a killed lab left, and nothing else; return what was ended."""
    found: dict[str, int] = {}
    for file in sorted(directory.glob("*.json")):
        with suppress(ValueError, KeyError, TypeError):
            left = json.loads(file.read_text())
            descriptor = _open_exactly(int(left["pid"]), str(left["identity"]))
            if descriptor is not None:
                found[f"{file.stem} (pid {left['pid']})"] = descriptor
        file.unlink()
    for number in (signal.SIGTERM, signal.SIGKILL):
        for descriptor in found.values():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
        for descriptor in found.values():
            select.select([descriptor], [], [], STOP_TIMEOUT_S)
    for descriptor in found.values():
        os.close(descriptor)
    return list(found)


def _open_exactly(pid: int, identity: str) -> int | None:
    """Return a descriptor of the very process that was started, or None when it is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    # Looked at after the descriptor is open: what it names cannot change any more.
    if identity and identity_of(pid) == identity:
        return descriptor
    os.close(descriptor)
    return None


def identity_of(pid: int) -> str:
    """Return boot and start time of a process, or nothing when it is gone."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{boot} {fields[_START_TIME]}"


def children_of(pid: int) -> list[int]:
    """Return the children of a process."""
    with suppress(OSError):
        return [
            int(child)
            for thread in Path(f"/proc/{pid}/task").iterdir()
            for child in (thread / "children").read_text().split()
        ]
    return []


def pause(seconds: float) -> None:
    """Wait between two looks."""
    time.sleep(seconds)
