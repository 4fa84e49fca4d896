"""Waiting for the keyring: the first thing an unlocked manager reads, as soon as a quorum answers.

Tells meanwhile how many managers are there and how many it takes.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from cluster.engine_start import StartedEngine
from cluster.protocol.errors import ClusterError, IntegrityError, NoQuorum, Unavailable
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.keyring import Keyring
from cluster.store.key_epochs import load_wrapped_keyring
from cluster.succession import look_for_successor

LOOK_S: Final = 0.2


async def wait_for_keyring(
    started: StartedEngine, root_key: SecretBytes, tell: Callable[[str], None]
) -> Keyring:
    """Return the keyring as soon as a quorum can be read; `tell` is told what is waited for.

    Raises IntegrityError for a store without one, and for one that does not open, PermissionDenied
    where the cluster has gone on without this manager.
    """
    telling = asyncio.create_task(_tell_waiting(started, tell), name="waiting")
    try:
        while True:
            try:
                wrapped = await load_wrapped_keyring(started.engine)
                break
            except (NoQuorum, Unavailable):
                await look_for_successor(started)
                await asyncio.sleep(LOOK_S)
    finally:
        telling.cancel()
    if wrapped is None:
        raise IntegrityError("the store is empty although this manager has a seal file")
    return Keyring.unwrap(root_key, wrapped)


async def _tell_waiting(started: StartedEngine, tell: Callable[[str], None]) -> None:
    """Keep the step true while the first read takes its time: it waits for a quorum itself."""
    while True:
        await asyncio.sleep(LOOK_S)
        tell(await _waiting(started))


async def _waiting(started: StartedEngine) -> str:
    try:
        up, voters = await started.reachable()
    except ClusterError:
        member = started.member
        if member is None or not member.ends_at_every_start:
            return "waiting for the engine"
        return (
            "waiting for the engine, which ends at every start; see "
            f"{member.settings.log_path} and docs/how-to/lose-a-manager.md"
        )
    return f"waiting for quorum, {up} of {voters // 2 + 1}" if voters else "waiting for the engine"
