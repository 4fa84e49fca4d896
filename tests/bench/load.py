"""A load generator in processes of its own, and what it and the machine did in each round.

It shares the machine with what it measures, so every round says how busy the generator was: above
0.9 of a core a process, the generator is what was measured.
"""

import base64
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.bench.generator import PLACE
from tests.support.running import Credential

ROOT: Final = Path(__file__).parents[2]
FIRST_NUMBER: Final = 10_000_000
"""Numbers of requests have as many digits as this one, so every request is as long as its length
says."""
SATURATED: Final = 0.9


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to call."""

    endpoints: tuple[str, ...]
    """host:port or unix:PATH; callers are spread over them in turn."""
    tls: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def with_credential(cls, endpoints: Sequence[str], credential: Credential) -> "Target":
        """Return a target that is shown a certificate."""
        tls = {
            "control": [_text(der) for der in credential.control],
            "chain": _text(credential.chain_pem),
            "key": _text(credential.key_pem),
        }
        return cls(tuple(endpoints), tls)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request; `@number@` in its target and body becomes a number of its own."""

    method: str
    target: str
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Measured:
    """One round."""

    rate: float
    """Requests a second."""
    latencies_ms: list[float]
    generator_cores: float
    """Cores that one process of the generator took, on average."""
    busy: float
    """Share of the machine's processor time that was used, by anything."""


class Generator:
    """Callers that are connected and wait for rounds."""

    def __init__(self, target: Target, asked: Asked, callers: int, processes: int) -> None:
        self._callers = callers
        self._next = FIRST_NUMBER
        self._children = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.bench.generator"], cwd=ROOT,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            )
            for _ in range(processes)
        ]  # fmt: skip
        for number, child in enumerate(self._children):
            chosen = [
                target.endpoints[caller % len(target.endpoints)]
                for caller in range(number, callers, processes)
            ]
            self._tell(child, _job(target, asked, chosen))
        for child in self._children:
            self._hear(child)

    def round(self, count: int) -> Measured:
        """Have `count` requests answered."""
        before = _processor_times()
        share = -(-count // len(self._children))
        for child in self._children:
            self._tell(child, {"first": self._next, "count": share})
            self._next += share
        answers = [self._hear(child) for child in self._children]
        used, total = (now - then for now, then in zip(_processor_times(), before, strict=True))
        refused = [text for answer in answers for text in answer["refused"]]
        if refused:
            raise AssertionError(f"a request was refused: {refused[0]}")
        latencies = [one for answer in answers for one in answer["latencies_ms"]]
        longest = max(answer["seconds"] for answer in answers)
        cores = max(answer["cpu_s"] / answer["seconds"] for answer in answers)
        return Measured(len(latencies) / longest, latencies, cores, used / max(total, 1))

    def close(self) -> None:
        """End the processes."""
        for child in self._children:
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()
        for child in self._children:
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            assert child.stdout is not None
            child.stdout.close()

    def _tell(self, child: "subprocess.Popen[str]", order: dict[str, Any]) -> None:
        assert child.stdin is not None
        child.stdin.write(json.dumps(order) + "\n")
        child.stdin.flush()

    def _hear(self, child: "subprocess.Popen[str]") -> dict[str, Any]:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise AssertionError("a process of the load generator ended; its error is above")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def generating(
    target: Target, asked: Asked, callers: int, processes: int = 1
) -> Iterator[Generator]:
    """Give a connected generator and end its processes."""
    generator = Generator(target, asked, callers, min(processes, callers))
    try:
        yield generator
    finally:
        generator.close()


def busyness(rounds: Sequence[Measured]) -> str:
    """Return what a reader must know of some rounds: who used the processors."""
    cores = max(one.generator_cores for one in rounds)
    busy = sum(one.busy for one in rounds) / len(rounds)
    said = f"generator {cores:.2f} of a core a process, machine {busy:.0%} busy"
    return said if cores < SATURATED else f"{said}: the generator is the limit"


def _job(target: Target, asked: Asked, endpoints: list[str]) -> dict[str, Any]:
    return {
        **target.tls,
        "endpoints": endpoints,
        "headers": target.headers,
        "method": asked.method,
        "target": asked.target,
        "body": _text(asked.body),
        "digits": len(str(FIRST_NUMBER)),
    }


def numbered(text: str) -> str:
    """Return a text with a place for the request's number behind it."""
    return text + PLACE.decode()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _processor_times() -> tuple[float, float]:
    """Return the machine's processor time in use, and all of it, in seconds."""
    with Path("/proc/stat").open() as stat:
        fields = [int(word) for word in stat.readline().split()[1:9]]
    idle = fields[3] + fields[4]
    hertz = os.sysconf("SC_CLK_TCK")
    return (sum(fields) - idle) / hertz, sum(fields) / hertz
