"""Watches every manager's engine with the product's own watch and writes down what comes.

A process of its own: `python -m tests.faults.watcher OUTPUT SEALED NAME=SOCKET ...`. A line of
OUTPUT is [moment, name, segment, revision, [[key, digest], ...]]; a new segment begins where
history was compacted away under a watch that had fallen behind. Whatever comes first of a revision
goes into SEALED as well, as it is stored: [moment, revision, [[key, base64 or null], ...]].
"""

import asyncio
import base64
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import TextIO

from cluster.engine.etcd import EtcdEngine
from cluster.engine.seam import Change, WatchBatch
from cluster.protocol.errors import ClusterError, Compacted
from cluster.system import SystemClock, SystemEntropy


class Sealed:
    """Writes the changes of each revision once, as they are stored."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._seen: set[int] = set()

    def take(self, batch: WatchBatch) -> None:
        """Write a batch down unless another watch brought it before."""
        if batch.revision in self._seen:
            return
        self._seen.add(batch.revision)
        changes = [[one.entry.key.hex(), _value(one)] for one in batch.changes]
        self._output.write(json.dumps([time.monotonic(), batch.revision, changes]) + "\n")
        self._output.flush()


async def follow(name: str, socket: Path, output: TextIO, sealed: Sealed) -> None:
    """Write down every batch of one manager's engine, for ever."""
    engine = await EtcdEngine.connect(socket, SystemClock(), SystemEntropy())
    segment, revision = 0, 1
    while True:
        try:
            async for batch in engine.watch(b"", revision):
                changes = [[one.entry.key.hex(), _digest(one)] for one in batch.changes]
                line = [time.monotonic(), name, segment, batch.revision, changes]
                output.write(json.dumps(line) + "\n")
                output.flush()
                sealed.take(batch)
                revision = max(revision, batch.revision + 1)
        except Compacted as error:
            segment, revision = segment + 1, error.revision + 1
        except ClusterError:
            await asyncio.sleep(0.5)


def _digest(change: Change) -> str:
    return "" if change.deleted else hashlib.sha256(change.entry.value).hexdigest()[:16]


def _value(change: Change) -> str | None:
    return None if change.deleted else base64.b64encode(change.entry.value).decode()


async def _main(output: Path, sealed: Path, sockets: list[str]) -> None:
    with output.open("w") as lines, sealed.open("w") as values:
        once = Sealed(values)
        async with asyncio.TaskGroup() as group:
            for word in sockets:
                name, _, socket = word.partition("=")
                group.create_task(follow(name, Path(socket), lines, once))


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
