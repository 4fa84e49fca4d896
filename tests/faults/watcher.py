"""Watches every manager's engine with the product's own watch and writes down what comes.

A process of its own: `python -m tests.faults.watcher OUTPUT NAME=SOCKET ...`. A line of the output
is [moment, name, segment, revision, [[key, digest], ...]]; a new segment begins where history was
compacted away under a watch that had fallen behind.
"""

import asyncio
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import TextIO

from cluster.engine.etcd import EtcdEngine
from cluster.engine.seam import Change
from cluster.protocol.errors import ClusterError, Compacted
from cluster.system import SystemClock, SystemEntropy


async def follow(name: str, socket: Path, output: TextIO) -> None:
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
                revision = max(revision, batch.revision + 1)
        except Compacted as error:
            segment, revision = segment + 1, error.revision + 1
        except ClusterError:
            await asyncio.sleep(0.5)


def _digest(change: Change) -> str:
    return "" if change.deleted else hashlib.sha256(change.entry.value).hexdigest()[:16]


async def _main(output: Path, sockets: list[str]) -> None:
    with output.open("w") as lines:
        async with asyncio.TaskGroup() as group:
            for word in sockets:
                name, _, socket = word.partition("=")
                group.create_task(follow(name, Path(socket), lines))


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), sys.argv[2:]))
