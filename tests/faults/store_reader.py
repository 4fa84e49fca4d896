"""Reads a manager's store as root of its machine, beside the manager: what do the records say?

A process of its own: `python -m tests.faults.store_reader SOCKET SEAL_FILE REVISION`, the unlock
key on standard input, JSON on standard output; revision 0 is the present one. Writes nothing.
"""

import asyncio
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from cluster.engine.etcd import EtcdEngine
from cluster.engine.seam import Engine
from cluster.protocol.errors import ClusterError, IntegrityError
from cluster.protocol.ids import ManagerId, NodeId, SecretId, ServiceId, format_id
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.keyring import Keyring
from cluster.seal.unlock import UnlockKey, open_seal_file
from cluster.store.key_epochs import load_wrapped_keyring
from cluster.store.records import Kind, SecretRecord, VersionState
from cluster.store.sealed_store import SealedStore
from cluster.store.start_check import check_against_chains
from cluster.system import SystemClock, SystemEntropy
from tests.faults.entitlements import KINDS, Records
from tests.faults.plain_records import plain

PATIENCE_S: Final = 180.0


async def read_store(socket: Path, seal_file: Path, unlock_key: str, at: int) -> dict[str, Any]:
    """Return what is in the store, and what is wrong with it."""
    key = UnlockKey.parse(SecretBytes(unlock_key.encode()))
    contents, _ = open_seal_file(seal_file, key)
    clock, entropy = SystemClock(), SystemEntropy()
    engine = await EtcdEngine.connect(socket, clock, entropy)
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
            links = await check_against_chains(store)
            revision = at or await engine.barrier()
            replica = await _replica(engine, revision)
            return {**_records(store), "links": links, "at": revision, "replica": replica}
        finally:
            await store.close()
    finally:
        await engine.close()


def _records(store: SealedStore) -> dict[str, Any]:
    view = store.view
    secrets = {one.record.id: one.record for one in view.secrets.values()}
    nodes = {one.record.id: one.record.name for one in view.nodes.values()}
    services = {one.record.id: one.record for one in view.services.values()}
    return {
        "revision": view.revision,
        "faults": [
            *(f"{fault.kind}: {fault.what}" for fault in view.faults),
            *(fault for one in secrets.values() for fault in _version_faults(store, one)),
        ],
        "secrets": {one.name: one.primary.number for one in secrets.values()},
        "secret_names": {one.id: one.name for one in secrets.values()},
        "nodes": nodes,
        "managers": {one.record.id: one.record.name for one in view.managers.values()},
        "services": {one.name: one.id for one in services.values()},
        "files": [
            [services[ServiceId(service)].name, nodes[NodeId(node)], target, *file]
            for (service, node), files in _plain(store).all_files().items()
            for target, file in files.items()
        ],
        "evicted": [one.record.id for one in view.nodes.values() if one.record.revoked_at],
        "unmarked": [
            [one.id, version.number]
            for one in secrets.values()
            for version in one.versions
            if version.state is not VersionState.RETIRED and version.exposed_at is None
        ],
        "open_rollouts": [
            [one.record.id, one.record.name, one.record.state.value]
            for one in view.rollouts.values()
            if one.record.finished_at is None
        ],
        "open_rotations": [
            one.record.name for one in view.rotations.values() if one.record.finished_at is None
        ],
        "receipts": [
            [
                receipt.secret_id,
                receipt.version,
                receipt.node_id,
                receipt.service_id,
                store.keyring.engine_key(Kind.RECEIPT.value, receipt.id).hex(),
                receipt.acked_at is not None,
                receipt.dropped_at is not None,
                receipt.error != "",
            ]
            for receipt in (stored.record for stored in view.receipts.values())
        ],
        "counts": {kind.value: len(view.table(kind)) for kind in _COUNTED},
    }


def _plain(store: SealedStore) -> Records:
    """Return the records that decide about files as plain ones."""
    records = Records()
    for kind in KINDS:
        for stored in store.view.table(Kind(kind)).values():
            records.take(kind, stored.record.id, plain(stored.record))
    return records


def _version_faults(store: SealedStore, secret: SecretRecord) -> Iterator[str]:
    """Yield where a secret's versions contradict themselves or the values that are there."""
    states = [version.state for version in secret.versions]
    if states.count(VersionState.PRIMARY) != 1:
        yield f"{secret.name} has {states.count(VersionState.PRIMARY)} primary versions"
    for version in secret.versions:
        what = f"version {version.number} of {secret.name}"
        value = store.view.secret_values.version(SecretId(secret.id), version.number)
        if (value is None) is not version.destroyed:
            yield f"{what} is {'' if version.destroyed else 'not '}destroyed, its value is not so"
        if version.destroyed and version.state is not VersionState.RETIRED:
            yield f"{what} is destroyed and {version.state.value}"
        if version.number >= secret.next_number:
            yield f"{what} has a number that is to be given yet"


_COUNTED: Final = (Kind.TASK, Kind.TASK_STATUS, Kind.RECEIPT, Kind.ROLLOUT, Kind.REQUEST)


async def _replica(engine: Engine, revision: int) -> dict[str, str]:
    """Return every engine key of this member with a digest of what it holds."""
    found: dict[str, str] = {}
    after: bytes | None = None
    await engine.barrier()  # behind it this member has reached the revision
    while True:
        page = await engine.list_page(b"", after=after, at_revision=revision, linearizable=False)
        for entry in page.entries:
            digest = hashlib.sha256(entry.value).hexdigest()[:16]
            found[entry.key.hex()] = f"{entry.create_revision}/{entry.mod_revision}/{digest}"
        if not page.more:
            return found
        after = page.entries[-1].key


async def _read_patiently(
    socket: Path, seal_file: Path, unlock_key: str, at: int
) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await read_store(socket, seal_file, unlock_key, at)
            except IntegrityError:
                raise  # it will not get better: this is what the reader is for
            except ClusterError as error:
                sys.stderr.write(f"{error.code}: {error.message}\n")
                await asyncio.sleep(1)


if __name__ == "__main__":
    program, socket, seal_file, at = sys.argv
    told = asyncio.run(
        _read_patiently(Path(socket), Path(seal_file), sys.stdin.read().strip(), int(at))
    )
    sys.stdout.write(json.dumps(told))
