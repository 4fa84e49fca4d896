"""Joining the engine: a learner, then a voter. Every step may be repeated after a crash.

A member's data and its membership belong together: data of a member that was removed meanwhile are
wiped, and a learner whose data are gone is added anew, because a log that forgot what it had
acknowledged would break the leader's count. Source: DESIGN 3, etcd's learner design.
"""

import asyncio
import shutil
from dataclasses import replace
from typing import Final

from cluster.config import Config
from cluster.engine_start import StartedEngine, has_engine_log, start_engine
from cluster.joining import Admitted, Joiner
from cluster.protocol.errors import (
    ClusterError,
    Conflict,
    IntegrityError,
    Unauthenticated,
    Unavailable,
)
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.unlock import SealFileContents
from cluster.system import Clock, Entropy

CATCH_UP_TIMEOUT_S: Final = 120.0
ROLE_TIMEOUT_S: Final = 10.0
KNOWN_LOOKS: Final = 25
LOOK_S: Final = 0.2


async def start_learner(
    joiner: Joiner, admitted: Admitted, clock: Clock, entropy: Entropy
) -> StartedEngine:
    """Have this manager's member added as a learner and start it."""
    config = joiner.config
    fresh = not has_engine_log(config)
    members, added = await _learner(joiner, admitted, fresh=fresh)
    if added or fresh:
        await asyncio.to_thread(shutil.rmtree, config.engine_dir, ignore_errors=True)
    return await start_engine(
        config,
        "etcd",
        admitted.contents,
        clock,
        entropy,
        initial_cluster=members,
        state="existing",
    )


async def _learner(
    joiner: Joiner, admitted: Admitted, *, fresh: bool
) -> tuple[dict[str, str], bool]:
    """Have the member added; a manager that lags may not know yet whom another admitted."""
    for _ in range(KNOWN_LOOKS):
        try:
            return await asyncio.to_thread(joiner.become_learner, admitted, fresh=fresh)
        except Unauthenticated:
            await asyncio.sleep(LOOK_S)
    raise Unauthenticated(
        "the other managers do not know this one; run `strongroom join` with a new token"
    )


async def promoted(joiner: Joiner, admitted: Admitted) -> None:
    """Return once this manager's member is a voter. Raises Unavailable if it does not catch up."""
    try:
        async with asyncio.timeout(CATCH_UP_TIMEOUT_S):
            while True:
                try:
                    await asyncio.to_thread(joiner.become_voter, admitted)
                except Unavailable:
                    await asyncio.sleep(LOOK_S)
                else:
                    return
    except TimeoutError:
        raise Unavailable(
            "this manager's member did not catch up; run `strongroom join` again"
        ) from None


def require_joined(config: Config, contents: SealFileContents) -> None:
    """Raise Conflict for a join that did not come as far as the engine, and IntegrityError for a
    manager whose engine has lost its data: it must not make a cluster of its own.
    """
    if contents.pending and not (contents.manager_id and has_engine_log(config)):
        raise _not_complete()
    if not has_engine_log(config):
        raise IntegrityError(
            "the engine's data are gone; restore them, or remove this manager and join a new one"
        )


async def completed(
    config: Config, contents: SealFileContents, started: StartedEngine
) -> SealFileContents:
    """Return the contents of a manager that became a voter and crashed before it noted that.

    The others wait for its vote, so it must start without them. Raises Conflict for a learner,
    which the others do not wait for.
    """
    if not await _is_voter(config, started):
        await started.stop()
        raise _not_complete()
    return replace(contents, pending=SecretBytes(b""))


async def _is_voter(config: Config, started: StartedEngine) -> bool:
    try:
        async with asyncio.timeout(ROLE_TIMEOUT_S):
            while True:
                try:
                    members = (await started.engine.status()).members
                except ClusterError:
                    members = ()
                for member in members:
                    if member.peer_address == config.peer_address:
                        return not member.is_learner
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        return False


def _not_complete() -> Conflict:
    return Conflict("this manager's join is not complete; run `strongroom join` again")
