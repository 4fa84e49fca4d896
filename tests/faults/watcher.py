"""Watches every manager's engine with the product's own watch and writes down what comes.

A process of its own: `python -m tests.faults.watcher OUTPUT SEALED NAME=SOCKET ...`. A line of
OUTPUT is [moment, name, segment, revision, [[key, digest], ...]]; a new segment begins where
history was compacted away under a watch that had fallen behind. Whatever comes first of a revision
goes into SEALED as well, as it is stored: [moment, revision, [[key, base64 or null], ...]].

All keyspaces are watched at once: the store's, and of the campaigns the one that carries the
duties. What merely remembers requests, and signs of life, is left out.
"""

import asyncio
import base64
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Final, TextIO

from cluster.duties import ALIVE_PREFIX
from cluster.engine.etcd_channel import EtcdChannel
from cluster.engine.etcd_watch import watch
from cluster.engine.seam import REQUEST_ID_SIZE, Change, WatchBatch
from cluster.membership import MEMBERSHIP_DUTY
from cluster.protocol.errors import ClusterError, Compacted

OTHER_CAMPAIGNS: Final = (ALIVE_PREFIX.encode(), MEMBERSHIP_DUTY.encode())


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
    channel = EtcdChannel(socket)
    segment, revision = 0, 1
    while True:
        try:
            async for whole in watch(channel, b"", revision):
                revision = max(revision, whole.revision + 1)
                batch = WatchBatch(whole.revision, tuple(filter(_is_told, whole.changes)))
                if not batch.changes:
                    continue
                changes = [[one.entry.key.hex(), _digest(one)] for one in batch.changes]
                line = [time.monotonic(), name, segment, batch.revision, changes]
                output.write(json.dumps(line) + "\n")
                output.flush()
                sealed.take(batch)
        except Compacted as error:
            segment, revision = segment + 1, error.revision + 1
        except ClusterError:
            await asyncio.sleep(0.5)


def _is_told(change: Change) -> bool:
    """Return whether a change is one of a record, a link, or the duty."""
    key = change.entry.key
    return len(key) != REQUEST_ID_SIZE and not key.startswith(OTHER_CAMPAIGNS)


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
