"""Brings an engine into states that take long to come by themselves, as root of its machine.

A process of its own: `python -m tests.faults.engine_control SOCKET fill|compact`. `fill` raises the
alarm that a reached quota raises; `compact` forgets all history but the last revision.
"""

import asyncio
import sys
from pathlib import Path

from cluster.engine import etcd_pb2 as pb
from cluster.engine.etcd import EtcdEngine
from cluster.engine.etcd_channel import ALARM, STATUS, EtcdChannel
from cluster.system import SystemClock, SystemEntropy

PATIENCE_S = 5.0


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
    """Compact to the present revision."""
    engine = await EtcdEngine.connect(socket, SystemClock(), SystemEntropy())
    await engine.compact(await engine.barrier())
    await engine.close()


if __name__ == "__main__":
    _, path, what = sys.argv
    asyncio.run({"fill": fill, "compact": compact}[what](Path(path)))
