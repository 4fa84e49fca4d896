"""A cluster founded in this process: what `init` writes, in a real store, without listeners."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.config import Address, Config
from cluster.engine.sqlite import SqliteEngine
from cluster.engine_start import StartedEngine
from cluster.founding import Founder, Founding
from cluster.pki.csr import make_csr, new_key
from cluster.protocol.ids import ManagerId
from cluster.seal.unlock import SealKey, UnlockKey, create_seal_file
from cluster.store.sealed_store import SealedStore, bootstrap_store
from cluster.use_cases import UseCases
from tests.support.clock import ManualClock
from tests.support.entropy import SeededEntropy

TRUST_DOMAIN = "test.strongroom"


@dataclass
class Founded:
    """A founded cluster and its parts."""

    config: Config
    clock: ManualClock
    entropy: SeededEntropy
    unlock_key: UnlockKey
    founding: Founding
    seal_key: SealKey
    store: SealedStore
    started: StartedEngine
    cases: UseCases


def config_in(directory: Path) -> Config:
    """Return a configuration whose directories exist."""
    for name in ("data", "run"):
        (directory / name).mkdir(mode=0o700)
    any_port = Address("127.0.0.1", 7443)
    return Config(
        "m1", "127.0.0.1", directory / "data", directory / "run", any_port, any_port, any_port
    )


@asynccontextmanager
async def founded_cluster(directory: Path, clock: ManualClock, seed: int) -> AsyncIterator[Founded]:
    """Found a cluster and open its store."""
    config, entropy = config_in(directory), SeededEntropy(seed)
    unlock_key = UnlockKey.generate(entropy)
    founding = Founder(config, clock, entropy).found(
        TRUST_DOMAIN, unlock_key, "ada", make_csr(new_key()), node_ttl_s=3_600.0
    )
    contents = founding.contents
    engine = await SqliteEngine.open(directory / "store.db", clock)
    wrapped = founding.keyring.wrap(contents.root_key, entropy)
    await bootstrap_store(engine, founding.keyring, wrapped, founding.records, entropy)
    store = await SealedStore.open(
        engine,
        founding.keyring,
        root_key=contents.root_key,
        manager_id=ManagerId(contents.manager_id),
        boot="b1",
        clock=clock,
        entropy=entropy,
    )
    try:
        yield Founded(
            config=config,
            clock=clock,
            entropy=entropy,
            unlock_key=unlock_key,
            founding=founding,
            seal_key=create_seal_file(config.seal_file, unlock_key, contents, entropy),
            store=store,
            started=StartedEngine(engine),
            cases=UseCases.build(
                store, TRUST_DOMAIN, contents.manager_id, clock, entropy, admits_managers=True
            ),
        )
    finally:
        await store.close()
        await engine.close()
