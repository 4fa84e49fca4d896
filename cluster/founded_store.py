"""The first start of a new cluster: its engine, its first records, its seal file, in that order.

What lies there is marked as unfounded until the seal file stands, so an interrupted founding is
repeated and a complete one never is.
"""

import asyncio
from dataclasses import dataclass

from cluster.api.routes_admin import InitRequest
from cluster.config import Config
from cluster.data_directory import DataDirectory
from cluster.engine_start import EngineKind, StartedEngine, start_engine
from cluster.founding import Founder, Founding
from cluster.seal.unlock import SealKey, UnlockKey, create_seal_file
from cluster.store.sealed_store import bootstrap_store
from cluster.system import Clock, Entropy


@dataclass(frozen=True, slots=True)
class FoundedStore:
    """A cluster that was founded, and its running engine."""

    founding: Founding
    seal_key: SealKey
    started: StartedEngine


async def found_store(
    config: Config, request: InitRequest, unlock_key: UnlockKey, clock: Clock, entropy: Entropy
) -> FoundedStore:
    """Found a cluster where none is. Raises InvalidRequest, and what the engine raises."""
    directory = DataDirectory(config)
    founding = Founder(config, clock, entropy).found(
        request.trust_domain,
        unlock_key,
        request.operator,
        request.csr,
        node_ttl_s=request.node_ttl_s,
        service_ttl_s=request.service_ttl_s,
    )
    kind: EngineKind = "etcd" if request.engine == "etcd" else "sqlite"
    await asyncio.to_thread(directory.begin_founding)
    started = await start_engine(config, kind, founding.contents, clock, entropy)
    try:
        wrapped = founding.keyring.wrap(founding.contents.root_key, entropy)
        await bootstrap_store(started.engine, founding.keyring, wrapped, founding.records, entropy)
        seal_key = await asyncio.to_thread(
            create_seal_file, config.seal_file, unlock_key, founding.contents, entropy
        )
    except BaseException:
        await started.stop()
        raise
    directory.end_founding()
    return FoundedStore(founding, seal_key, started)
