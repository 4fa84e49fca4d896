"""Fills a stopped manager's store with secrets, as many as a long-lived cluster has.

    python -m tests.scale.filling DATA_DIRECTORY FIRST COUNT SEED      the unlock key on stdin

The records are the API's own, written through the manager's own store in larger transactions than
callers make: a hundred thousand creations over the API take minutes of two processes. A process of
its own, for SQLite alone; what it seals and opens is gone with it.
"""

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cluster.control.secrets import value_record
from cluster.control.versions import first_version
from cluster.engine.sqlite import SqliteEngine
from cluster.engine_start import SQLITE_FILE
from cluster.protocol.ids import ManagerId, SecretId, VersionNumber, format_id
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.keyring import Keyring
from cluster.seal.unlock import UnlockKey, open_seal_file
from cluster.store.key_epochs import load_wrapped_keyring
from cluster.store.records import AuditEntry, Kind, NameRecord, SecretRecord, name_id
from cluster.store.sealed_store import SealedStore
from cluster.store.steps import Create, Step, Write
from cluster.system import SystemClock, SystemEntropy
from tests.support.running import ManagerProcess

_SECRETS_PER_WRITE: Final = 40
_WRITES_AT_ONCE: Final = 16


def value_of(seed: int, name: str, version: int) -> bytes:
    """Return the value that a version has in a run: whoever knows the seed can check a file."""
    return hashlib.sha256(f"{seed}/{name}/{version}".encode()).hexdigest().encode()


def name_of(number: int) -> str:
    """Return the name of the run's secret of a number."""
    return f"secret-{number:06}"


def fill(manager: ManagerProcess, unlock_key: str, first: int, count: int, seed: int) -> None:
    """Write secrets into the store of a manager that does not run."""
    assert not manager.running
    words = [str(manager.base / "data"), str(first), str(count), str(seed)]
    command = [sys.executable, "-m", "tests.scale.filling", *words]
    subprocess.run(command, input=unlock_key.encode(), check=True)


async def _fill(data_dir: Path, unlock_key: bytes, first: int, count: int, seed: int) -> None:
    key = UnlockKey.parse(SecretBytes(unlock_key))
    contents, _ = open_seal_file(data_dir / "seal", key)
    clock, entropy = SystemClock(), SystemEntropy()
    engine = await SqliteEngine.open(data_dir / "engine" / SQLITE_FILE, clock)
    try:
        wrapped = await load_wrapped_keyring(engine)
        assert wrapped is not None, "the store has no keyring"
        store = await SealedStore.open(
            engine,
            Keyring.unwrap(contents.root_key, wrapped),
            root_key=contents.root_key,
            manager_id=ManagerId(contents.manager_id),
            boot=format_id(entropy.token(16)),
            clock=clock,
            entropy=entropy,
        )
        try:
            numbers = range(first, first + count)
            starts = range(0, count, _SECRETS_PER_WRITE)
            waiting = (numbers[start : start + _SECRETS_PER_WRITE] for start in starts)
            async with asyncio.TaskGroup() as group:
                for _ in range(_WRITES_AT_ONCE):
                    group.create_task(_work(store, waiting, seed))
        finally:
            await store.close()
    finally:
        await engine.close()


async def _work(store: SealedStore, waiting: Iterator[range], seed: int) -> None:
    now_s = SystemClock().now().timestamp()
    for numbers in waiting:
        steps = tuple(step for number in numbers for step in _steps(number, seed, now_s))
        entry = AuditEntry(
            at=now_s, caller="operator/admin", action="secret.create",
            resource=f"secret/{name_of(numbers[0])}", allowed=True, detail=f"{len(numbers)} more",
        )  # fmt: skip
        await store.commit(Write(steps, (entry,)))


def _steps(number: int, seed: int, now_s: float) -> list[Step]:
    """Return what `Secrets.create` writes."""
    name, secret_id = name_of(number), SecretId(format_id(SystemEntropy().token(16)))
    value = SecretBytes(value_of(seed, name, 1))
    record = SecretRecord(
        id=secret_id,
        name=name,
        versions=(first_version(len(value), now_s, "admin"),),
        next_number=2,
        created_at=now_s,
        updated_at=now_s,
    )
    return [
        Create(record),
        Create(NameRecord(id=name_id(Kind.SECRET, name), owner=secret_id)),
        Create(value_record(secret_id, VersionNumber(1), value)),
    ]


if __name__ == "__main__":
    program, told_dir, told_first, told_count, told_seed = sys.argv
    told_key = sys.stdin.buffer.read().strip()
    asyncio.run(_fill(Path(told_dir), told_key, int(told_first), int(told_count), int(told_seed)))
