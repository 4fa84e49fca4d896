"""What no program of ours could do without on this machine, and how far each path is from it.

`floors` measures the disk's fsync, one TLS handshake, the engine's own write and read through a
quorum. `distances` divides rows of one run by what they need of those: a rotation cannot be faster
than two writes of the quorum one after the other, whoever makes it.

    python -m tests.bench.floors    writes the distances of the published rows into their page
"""

import asyncio
import math
import os
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Final

from cluster.engine import etcd_pb2 as pb
from cluster.engine.etcd_channel import RANGE, EtcdChannel
from cluster.pki.tls import client_context, server_context
from cluster.protocol.identity import Kind
from tests.bench import targets
from tests.bench.published import on_page, publish_floors
from tests.bench.requests import OUTSIDE, PUT, RAW_MERGED, engine_socket
from tests.bench.rows import Row
from tests.bench.stage import VALUE_BYTES, Stage
from tests.support.authority import ClusterAuthority

SAMPLES: Final = 100
FSYNC: Final = "fsync of 1 KB, appended"
HANDSHAKE: Final = "TLS handshake with both certificates, both ends"
WRITE: Final = "raw engine put of 1 KB, 1 caller"
READ: Final = "raw engine read by the quorum"
INTERPRETER: Final = "start of the interpreter alone"
SEALED: Final = "seal a value of 1 KiB, 1 a message (mlkem768-x25519)"
OPENED: Final = "open a value of 1 KiB, 1 a message (mlkem768-x25519)"
ELECTION: Final = "election timeout"


def floors(stage: Stage) -> list[Row]:
    """Measure each."""
    leader = stage.cluster.leader()
    write, read = asyncio.run(_engine(engine_socket(leader)))
    return [
        Row.of(FSYNC, "ms", _fsyncs(stage)),
        Row.of(HANDSHAKE, "ms", _handshakes(), note="processor time, in one process"),
        Row.of("raw engine put, one after the other", "ms", write, note="to a majority's disks"),
        Row.of(READ, "ms", read, note="what a barrier asks"),
    ]


def _fsyncs(stage: Stage) -> list[float]:
    path = stage.cluster.base / "fsync"
    with path.open("wb", buffering=0) as file:

        def append() -> None:
            file.write(bytes(VALUE_BYTES))
            os.fsync(file.fileno())

        taken = [_timed(append, time.perf_counter) for _ in range(SAMPLES)]
    path.unlink()
    return taken


def _handshakes() -> list[float]:
    """Return processor milliseconds of handshakes in memory."""
    authority = ClusterAuthority()
    manager, node = authority.issue(Kind.MANAGER, "m1"), authority.issue(Kind.NODE, "w1")
    serving = server_context(manager.chain_pem, manager.key_pem, authority.control_der)
    calling = client_context(authority.control_der, node.chain_pem, node.key_pem)
    return [_timed(lambda: _shake(serving, calling), time.process_time) for _ in range(SAMPLES)]


def _shake(serving: ssl.SSLContext, calling: ssl.SSLContext) -> None:
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving.wrap_bio(up, down, server_side=True)
    client = calling.wrap_bio(down, up, server_hostname="m1")
    waiting = [client, server]
    while waiting:
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue


async def _engine(socket: FilePath) -> tuple[list[float], list[float]]:
    """Return milliseconds of puts, and of reads that the quorum's leader confirms."""
    channel = EtcdChannel(socket)
    put = pb.PutRequest(key=OUTSIDE + b"floor", value=os.urandom(VALUE_BYTES))
    look = pb.RangeRequest(key=OUTSIDE + b"floor", keys_only=True)
    await channel.ask(PUT, put)  # connects
    write, read = [], []
    for _ in range(SAMPLES):
        started = time.perf_counter()
        await channel.ask(PUT, put)
        write.append((time.perf_counter() - started) * 1_000)
        started = time.perf_counter()
        await channel.ask(RANGE, look)
        read.append((time.perf_counter() - started) * 1_000)
    await channel.close()
    return write, read


def _timed(work: Callable[[], None], clock: Callable[[], float]) -> float:
    started = clock()
    work()
    return (clock() - started) * 1_000


# --- distances -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Path:
    """One path: the row that measures it, and what it cannot do without, each so many times."""

    row: str
    needs: Mapping[str, int]
    why: str


CONSTANTS: Final = {ELECTION: 500.0}
"""Milliseconds that a setting gives: ADR 0014."""
PATHS: Final = (
    Path(
        targets.TO_FILE, {WRITE: 2},
        "the version by a majority, then its receipt, which is decided from it",
    ),
    Path("create, 1 caller", {WRITE: 1}, "one write by a majority"),
    Path(targets.CREATE_MANY, {RAW_MERGED: 1}, "one put each, many in a transaction"),
    Path(targets.ISSUE, {SEALED: 1}, "the value, sealed to the key that came with the request"),
    Path(
        targets.FLEET_ACKED, {SEALED: 500, OPENED: 500, WRITE: 2},
        "each agent's value sealed and opened, by two cores; the version and the receipts",
    ),
    Path(targets.FLEET_BACK, {HANDSHAKE: 500}, "each agent's handshake, by two cores"),
    Path(targets.GET, {INTERPRETER: 1}, "Python's start"),
    Path(targets.LISTED, {INTERPRETER: 1}, "Python's start"),
    Path(targets.FIRST_WRITE, {ELECTION: 1, WRITE: 1}, "nobody stands earlier; then one write"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Distance:
    """How far one path is from its floor, in milliseconds."""

    path: Path
    floor_ms: float
    value_ms: float

    @property
    def times(self) -> float:
        """What it takes over what it cannot do without."""
        return self.value_ms / self.floor_ms


def distances(rows: Iterable[tuple[str, float, str]]) -> list[Distance]:
    """Return the distance of each path of which all that it takes is among rows of name, value and
    unit."""
    known = CONSTANTS | {name: milliseconds(value, unit) for name, value, unit in rows if value}
    return [
        Distance(path, sum(count * known[need] for need, count in path.needs.items()),
                 known[path.row])
        for path in PATHS
        if known.keys() >= {path.row, *path.needs}
    ]  # fmt: skip


def measured(rows: Iterable[Row]) -> Iterator[tuple[str, float, str]]:
    """Yield what distances are made of."""
    return ((row.name, row.value, row.unit) for row in rows)


def milliseconds(value: float, unit: str) -> float:
    """Return a time in milliseconds; of a rate, that of one. What is no time becomes none."""
    match unit:
        case "ms":
            return value
        case "µs":
            return value / 1_000
        case "s":
            return value * 1_000
        case "1/s":
            return 1_000 / value
        case _:
            return math.nan


def as_table(found: Sequence[Distance]) -> str:
    """Return the distances as Markdown."""
    lines = [
        f"| {one.path.row} | {_needs(one.path)}: {one.path.why} | {one.floor_ms:.3g} "
        f"| {one.value_ms:.3g} | {one.times:.1f} |"
        for one in found
    ]
    return "\n".join(["| path | floor | ms | takes, ms | times |", "|---|---|--:|--:|--:|", *lines])


def _needs(path: Path) -> str:
    return " + ".join(
        f"{count} of {need}" if count > 1 else need for need, count in path.needs.items()
    )


if __name__ == "__main__":
    publish_floors(as_table(distances(on_page("own"))))
