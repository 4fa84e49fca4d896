"""Opens what the watches brought and writes down how the records changed, revision by revision.

A process of its own: `python -m tests.faults.chronicle SOCKET SEAL_FILE SEALED OUTPUT`, the unlock
key on standard input. No value of a secret is opened.
"""

import asyncio
import base64
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from cluster.engine.etcd import EtcdEngine
from cluster.protocol.errors import Unavailable
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.envelope import open_record
from cluster.seal.keyring import PREFIX_SIZE, Keyring
from cluster.seal.unlock import UnlockKey, open_seal_file
from cluster.store.key_epochs import load_wrapped_keyring
from cluster.store.records import Kind, decode
from cluster.system import SystemClock, SystemEntropy
from tests.faults.entitlements import KINDS, Event
from tests.faults.plain_records import plain

PATIENCE_S: Final = 60.0


async def fetch_keyring(socket: Path, seal_file: Path, unlock_key: str) -> Keyring:
    """Return the keyring that a manager's store has now."""
    contents, _ = open_seal_file(seal_file, UnlockKey.parse(SecretBytes(unlock_key.encode())))
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                engine = await EtcdEngine.connect(socket, SystemClock(), SystemEntropy())
                try:
                    wrapped = await load_wrapped_keyring(engine)
                    assert wrapped is not None, "the store has no keyring"
                    return Keyring.unwrap(contents.root_key, wrapped)
                finally:
                    await engine.close()
            except Unavailable:
                await asyncio.sleep(1)


def opened(lines: Iterable[str], keyring: Keyring) -> Iterator[Event]:
    """Yield the changes of records, in the order of the revisions."""
    prefixes = {keyring.kind_prefix(kind): Kind(kind) for kind in KINDS}
    known: dict[str, str] = {}
    for moment, revision, changes in sorted(map(json.loads, lines), key=lambda line: line[1]):
        found: list[tuple[str, str, dict[str, Any] | None]] = []
        for key, sealed in changes:
            kind = prefixes.get(bytes.fromhex(key)[:PREFIX_SIZE])
            if kind is None:
                continue
            if sealed is None:
                if key in known:
                    found.append((kind.value, known[key], None))
                continue
            record = decode(
                kind,
                open_record(
                    keyring,
                    kind=kind.value,
                    engine_key=bytes.fromhex(key),
                    sealed=base64.b64decode(sealed),
                ).plaintext,
            )
            known[key] = record.id
            found.append((kind.value, record.id, plain(record)))
        yield revision, moment, found


def _main(socket: Path, seal_file: Path, sealed: Path, output: Path) -> None:
    keyring = asyncio.run(fetch_keyring(socket, seal_file, sys.stdin.read().strip()))
    with sealed.open() as lines, output.open("w") as out:
        for event in opened(lines, keyring):
            out.write(json.dumps(event) + "\n")


if __name__ == "__main__":
    _main(*map(Path, sys.argv[1:]))
