"""Has the cluster gone on without this manager? Asked before a manager serves.

After a recovery from a lost quorum the survivor's engine is another cluster, with a name of its own
at the address where the old one knows it. A manager of the old one that comes back, with its disk,
alone or with a majority, sees that name and does not serve: two clusters of one past would give out
the same secrets by different rules. Only a member with a certificate of the engine CA is believed;
one that does not answer tells nothing, but the own one has to. Source: DESIGN 3.
"""

import asyncio
from typing import Final

import structlog

from cluster.engine.etcd_peers import PeerView
from cluster.engine_start import StartedEngine
from cluster.protocol.errors import PermissionDenied, Unavailable

log = structlog.get_logger(__name__)

OWN_VIEW_S: Final = 30.0
"""For the own member to answer; it does at once, unless its machine has much else to do."""
LOOK_S: Final = 0.2
UNKNOWN: Final = frozenset({"", "0"})
"""What a member says, or is taken to say, before it knows its cluster."""


async def require_no_successor(started: StartedEngine, patience_s: float = OWN_VIEW_S) -> None:
    """Raise PermissionDenied if a voter that this manager's engine knows belongs to another life.

    Takes up to a few seconds where a voter's machine does not answer at all. Raises Unavailable
    where the own member does not tell who the others are within `patience_s`: whoever goes on then
    does not know.
    """
    if started.member is None:
        return
    own_address = started.member.settings.peer_advertise
    try:
        async with asyncio.timeout(patience_s):
            while True:
                own = await _view_of(started, own_address)
                if own is not None:
                    break
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise Unavailable(
            f"this manager's own member does not answer at {own_address}, so nobody can see "
            "whether the cluster was recovered without it; see whether this machine reaches that "
            "address, and etcd's log in the run directory"
        ) from None
    await _require_one_life(started, own_address, own)


async def look_for_successor(started: StartedEngine) -> None:
    """Raise PermissionDenied as `require_no_successor` does, for somebody who waits and looks
    again: a member that does not tell at once tells nothing."""
    if started.member is None:
        return
    own_address = started.member.settings.peer_advertise
    own = await _view_of(started, own_address)
    if own is not None:
        await _require_one_life(started, own_address, own)


async def _require_one_life(started: StartedEngine, own_address: str, own: PeerView) -> None:
    others = [address for address in own.voters if address != own_address]
    views = await asyncio.gather(*(_view_of(started, address) for address in others))
    for address, view in zip(others, views, strict=True):
        name = view.cluster_id if view is not None else ""
        if UNKNOWN.isdisjoint({name, own.cluster_id}) and name != own.cluster_id:
            log.error("engine.succeeded", address=address)
            raise PermissionDenied(
                f"the cluster was recovered without this manager: {address} is in a new life of "
                "it; wipe this manager's data directory and join it again (if that recovery was "
                "a mistake, stop and wipe the other one)"
            )


async def _view_of(started: StartedEngine, address: str) -> PeerView | None:
    try:
        return await started.view_of(address)
    except Unavailable:
        return None
