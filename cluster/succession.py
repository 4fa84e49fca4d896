"""Has the cluster gone on without this manager? Asked before a manager serves.

After a recovery from a lost quorum the survivor's engine is another cluster, with a name of its own
at the address where the old one knows it. A manager of the old one that comes back, with its disk,
alone or with a majority, sees that name and does not serve: two clusters of one past would give out
the same secrets by different rules. Only a member with a certificate of the engine CA is believed;
one that does not answer tells nothing. Source: DESIGN 3.
"""

import asyncio
from typing import Final

import structlog

from cluster.engine_start import StartedEngine
from cluster.protocol.errors import PermissionDenied, Unavailable

log = structlog.get_logger(__name__)

UNKNOWN: Final = frozenset({"", "0"})
"""What a member says, or is taken to say, before it knows its cluster."""


async def require_no_successor(started: StartedEngine) -> None:
    """Raise PermissionDenied if a voter that this manager's engine knows belongs to another life.

    Takes up to a few seconds where a voter's machine does not answer at all.
    """
    if started.member is None:
        return
    own_address = started.member.settings.peer_advertise
    try:
        own = await started.view_of(own_address)
    except Unavailable:
        return
    others = [address for address in own.voters if address != own_address]
    names = await asyncio.gather(*(_cluster_of(started, address) for address in others))
    for address, name in zip(others, names, strict=True):
        if UNKNOWN.isdisjoint({name, own.cluster_id}) and name != own.cluster_id:
            log.error("engine.succeeded", address=address)
            raise PermissionDenied(
                f"the cluster was recovered without this manager: {address} is in a new life of "
                "it; wipe this manager's data directory and join it again (if that recovery was "
                "a mistake, stop and wipe the other one)"
            )


async def _cluster_of(started: StartedEngine, address: str) -> str:
    try:
        return (await started.view_of(address)).cluster_id
    except Unavailable:
        return ""
