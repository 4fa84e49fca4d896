"""Brings an engine into states that take long to come by themselves, as root of its machine.

A process of its own: `python -m tests.faults.engine_control SOCKET ACTION`. `fill` raises the alarm
that a reached quota raises; `compact` says so and forgets the history that those who look on have
had time to see; `holder` prints the id of the manager that holds the duties, and `revoke` ends its
lease as well.
"""

import asyncio
import sys
from pathlib import Path
from typing import Final

from cluster.engine import etcd_pb2 as pb
from cluster.engine.etcd import EtcdEngine
from cluster.engine.etcd_channel import ALARM, CAMPAIGN, LEASE_REVOKE, RANGE, STATUS, EtcdChannel
from cluster.system import SystemClock, SystemEntropy
from tests.faults.duties import DUTY_KEY

PATIENCE_S = 5.0
SEEN_S: Final = 4.0
"""How long a watch may take to see a revision; what is compacted before, no judge ever sees."""


async def fill(socket: Path) -> None:
    """Raise the member's alarm for a database that is full."""
    channel = EtcdChannel(socket)
    status = await channel.ask(STATUS, pb.StatusRequest(), timeout_s=PATIENCE_S)
    request = pb.AlarmRequest(
        action=pb.AlarmRequest.ACTIVATE, memberID=status.header.member_id, alarm=pb.NOSPACE
    )
    await channel.ask(ALARM, request, timeout_s=PATIENCE_S)
    await channel.close()


async def compact(socket: Path) -> None:
    """Compact to what is the present revision now; print a line at the moment when it begins."""
    engine = await EtcdEngine.connect(socket, SystemClock(), SystemEntropy())
    revision = await engine.barrier()
    await asyncio.sleep(SEEN_S)
    sys.stdout.write("compacting\n")
    sys.stdout.flush()
    await engine.compact(revision)
    await engine.close()


async def holder(socket: Path) -> None:
    """Print who holds the duties; nothing while nobody does."""
    await _holding(socket, ends=False)


async def revoke(socket: Path) -> None:
    """Print who holds the duties, and end the lease that they hang on."""
    await _holding(socket, ends=True)


async def _holding(socket: Path, *, ends: bool) -> None:
    channel = EtcdChannel(socket)
    request = pb.RangeRequest(key=CAMPAIGN + DUTY_KEY)
    reply = await channel.ask(RANGE, request, timeout_s=PATIENCE_S)
    for held in reply.kvs:
        if ends:
            end = pb.LeaseRevokeRequest(ID=held.lease)
            await channel.ask(LEASE_REVOKE, end, timeout_s=PATIENCE_S)
        sys.stdout.write(held.value.decode())
    await channel.close()


ACTIONS: Final = {"fill": fill, "compact": compact, "holder": holder, "revoke": revoke}

if __name__ == "__main__":
    _, path, what = sys.argv
    asyncio.run(ACTIONS[what](Path(path)))
