"""Make the data directory of a manager, to be kept for upgrade tests:
`python -m tests.vectors.make_data_dir 0.1.0`.

Run once for each version that is released, and never again for it. The clock stands in the past, so
that no machine's calendar finds the certificates to be from the future. Everything in it is made
up, and everything but SQLite's own framing is sealed; the unlock key beside it opens it.
"""

import asyncio
import contextlib
import json
import sys
import tempfile
import zipfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cluster.api.routes_admin import InitRequest
from cluster.config import Address, Config
from cluster.control.policy import Principal, Role
from cluster.control.requests import RequestContext
from cluster.control.service_draft import ReferenceDraft, ServiceDraft
from cluster.engine.sqlite import SqliteEngine
from cluster.engine_start import SQLITE_FILE
from cluster.lifecycle import Lifecycle
from cluster.pki.csr import make_csr, new_key
from cluster.pki.join_token import JoinToken
from cluster.protocol.identity import Kind, SpiffeId
from cluster.protocol.ids import ManagerId, NodeId, SecretId, ServiceId, VersionNumber, format_id
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.keyring import Keyring
from cluster.seal.unlock import UnlockKey, open_seal_file
from cluster.store.key_epochs import load_wrapped_keyring
from cluster.store.records import Kind as RecordKind
from cluster.store.records import (
    NodeState,
    NodeStatusRecord,
    OperatorRole,
    ReceiptRecord,
    Record,
    RotationRecord,
    RotationStep,
    TaskRecord,
    TaskState,
    TaskStatusRecord,
    TokenRole,
    receipt_id,
    task_id,
)
from cluster.store.sealed_store import SealedStore
from cluster.store.steps import Create, Write
from cluster.system import SystemClock, SystemEntropy
from cluster.unlocked import UnlockedManager
from tests.support.running import TRUST_DOMAIN, free_ports

HERE = Path(__file__).parent
DOMAIN = TRUST_DOMAIN
MADE_AT = datetime(2025, 1, 1, tzinfo=UTC)
VALUES = {"db": (b"first", b"second"), "token": (bytes(range(0, 256, 8)),)}
CONFIG = b"listen = 8080\n"


class PastClock(SystemClock):
    """The machine's clocks, with the calendar set back."""

    def __init__(self) -> None:
        self._behind: timedelta = super().now() - MADE_AT

    def now(self) -> datetime:
        """Return the time in the past."""
        return super().now() - self._behind


class Maker:
    """Fills a store through the use cases, and with records that need an agent by hand."""

    def __init__(self, manager: UnlockedManager) -> None:
        self.cases = manager.cases
        self.store: SealedStore = manager.store
        self.entropy = SystemEntropy()
        self.now_s = MADE_AT.timestamp()

    def context(self) -> RequestContext:
        """Return the context of one request of the founder's."""
        identity = SpiffeId(DOMAIN, Kind.OPERATOR, "ada")
        ada = Principal(identity, str(identity), Role.ADMIN)
        return RequestContext(ada, format_id(self.entropy.token(16)), "digest")

    async def fill(self) -> None:
        """Write at least one record of each kind that a young cluster has."""
        cases = self.cases
        for name, values in VALUES.items():
            await cases.secrets.create(self.context(), name, {"team": "x"}, SecretBytes(values[0]))
        await cases.configs.create(self.context(), "app.toml", {}, SecretBytes(CONFIG))
        references = (ReferenceDraft("db"), ReferenceDraft("app.toml", config=True))
        draft = ServiceDraft(name="web", references=references)
        await cases.services.create(self.context(), draft)
        await cases.operators.add(self.context(), "eve", OperatorRole.AUDITOR, {})
        token = await cases.tokens.create(
            self.context(), TokenRole.WORKER, timedelta(hours=1), uses=2
        )
        text = str(token.body["token"])
        csr = make_csr(new_key())
        joined = await cases.enrolment.join_node(JoinToken.parse(text), csr, "n1", "127.0.0.1")
        await self._delivered(NodeId(str(joined["node_id"])))
        await cases.secrets.rotate(self.context(), "db", SecretBytes(VALUES["db"][1]))
        await cases.keys.rotate(self.context())

    async def _delivered(self, node_id: NodeId) -> None:
        """Write what an agent's session would have left."""
        (secret,) = (s.record for s in self.store.view.secrets.values() if s.record.name == "db")
        secret_id = SecretId(secret.id)
        (service,) = (s.record for s in self.store.view.services.values())
        service_id, one, at = ServiceId(service.id), VersionNumber(1), self.now_s
        task = task_id(service_id, node_id)
        records: tuple[Record, ...] = (
            NodeStatusRecord(
                id=node_id, state=NodeState.DOWN, manager_id=self.cases.manager_id,
                session_id="session", since=at,
            ),
            TaskRecord(
                id=task, service_id=service_id, node_id=node_id, state=TaskState.RUNNING,
                created_at=at,
            ),
            TaskStatusRecord(id=task, spec_number=1, at=at),
            ReceiptRecord(
                id=receipt_id(secret_id, one, node_id, service_id), secret_id=secret_id,
                version=one, node_id=node_id, service_id=service_id, issued_at=at,
                issued_by=self.cases.manager_id, acked_at=at, secret_name="db", node_name="n1",
                service_name="web",
            ),
            RotationRecord(
                id=format_id(self.entropy.token(16)), secret_id=secret_id, name="db",
                generator="alphanumeric", previous=one, step=RotationStep.FAILED, error="made up",
                started_at=at, started_by="ada", finished_at=at,
            ),
        )  # fmt: skip
        await self.store.commit(Write(tuple(map(Create, records))))


async def make(base: Path) -> str:
    """Fill the data directory of a manager under `base`, and return its unlock key."""
    life = Lifecycle(config_of(base), PastClock(), SystemEntropy())
    try:
        key = life.new_unlock_key()
        await life.init(InitRequest(key, "sqlite", DOMAIN, "ada", make_csr(new_key())))
        await Maker(life.serving()).fill()
    finally:
        await life.stop()
    return key


def config_of(base: Path) -> Config:
    """Return the configuration of a manager with its directories under `base`."""
    api, join, peer = (Address("127.0.0.1", port) for port in free_ports(3))
    for place in (base / "data", base / "run"):
        place.mkdir(mode=0o700, exist_ok=True)
    return Config("m1", "127.0.0.1", base / "data", base / "run", api, join, peer)


@contextlib.asynccontextmanager
async def at_rest(base: Path, key: str) -> AsyncIterator[SealedStore]:
    """Open the store of a manager that does not run: nobody but the caller changes it."""
    config, entropy = config_of(base), SystemEntropy()
    unlock_key = UnlockKey.parse(SecretBytes(key.encode()))
    contents, _ = open_seal_file(config.seal_file, unlock_key)
    engine = await SqliteEngine.open(config.engine_dir / SQLITE_FILE, SystemClock())
    try:
        wrapped = await load_wrapped_keyring(engine)
        assert wrapped is not None
        store = await SealedStore.open(
            engine,
            Keyring.unwrap(contents.root_key, wrapped),
            root_key=contents.root_key,
            manager_id=ManagerId(contents.manager_id),
            boot=format_id(entropy.token(16)),
            clock=SystemClock(),
            entropy=entropy,
        )
        try:
            yield store
        finally:
            await store.close()
    finally:
        await engine.close()


def counted(store: SealedStore) -> dict[str, int]:
    """Return how many records of each kind there are; values are counted by their secrets."""
    kinds = [kind for kind in RecordKind if kind is not RecordKind.SECRET_VALUE]
    return {kind.value: sum(1 for _ in store.view.table(kind).values()) for kind in kinds}


async def _made(base: Path) -> tuple[str, dict[str, int]]:
    key = await make(base)
    async with at_rest(base, key) as store:
        return key, counted(store)


def main() -> None:
    """Write the directory and what is known of it, under the name of the version."""
    (version,) = sys.argv[1:]
    name = f"data_dir_v{version.replace('.', '_')}"
    with tempfile.TemporaryDirectory(prefix="sr-") as directory:
        base = Path(directory)
        key, counts = asyncio.run(_made(base))
        with zipfile.ZipFile(HERE / f"{name}.bin", "w", zipfile.ZIP_LZMA) as packed:
            for path in sorted((base / "data").rglob("*")):
                if path.is_file() and path.stat().st_size:
                    packed.write(path, path.relative_to(base / "data"))
    known: dict[str, Any] = {
        "source": "made by the project; test-only keys; every later version starts on it",
        "version": version,
        "unlock_key": key,
        "trust_domain": DOMAIN,
        "values": {name: [value.hex() for value in values] for name, values in VALUES.items()},
        "config": CONFIG.decode(),
        "records": {kind: count for kind, count in counts.items() if count},
    }
    (HERE / f"{name}.json").write_text(json.dumps(known, indent=2) + "\n")
    sys.stdout.write(f"{HERE / name}.bin\n")


if __name__ == "__main__":
    main()
