"""Opens what the watches brought and writes down how the records changed, revision by revision.

A process of its own: `python -m tests.faults.chronicle SOCKET SEAL_FILE SEALED OUTPUT`, the unlock
key on standard input. No value of a secret is opened. Beside the records it tells who held the
duty, and the links of what was done under it.
"""

import asyncio
import base64
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from cluster.engine.etcd import EtcdEngine
from cluster.engine.seam import Entry
from cluster.protocol.errors import Unavailable
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.envelope import open_record
from cluster.seal.keyring import PREFIX_SIZE, Keyring
from cluster.seal.unlock import UnlockKey, open_seal_file
from cluster.store.audit_chain import open_link
from cluster.store.key_epochs import load_wrapped_keyring
from cluster.store.records import Kind, decode
from cluster.system import SystemClock, SystemEntropy
from tests.faults.duties import DUTY, DUTY_ACTIONS, DUTY_KEY, LINK
from tests.faults.entitlements import KINDS, Body, Event
from tests.faults.plain_records import plain

PATIENCE_S: Final = 180.0


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
    """Yield the changes of records, of the duty and under it, in the order of the revisions."""
    opener = _Opener(keyring)
    for moment, revision, changes in sorted(map(json.loads, lines), key=lambda line: line[1]):
        sealed = [(bytes.fromhex(key), _content(value)) for key, value in changes]
        yield revision, moment, [*opener.records(sealed), *opener.duty(sealed)]


Told = tuple[str, str, Body | None]


class _Opener:
    """Opens what was stored, in the order of its revisions."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        kinds = (*KINDS, Kind.AUDIT_STREAM)
        self._kinds = {keyring.kind_prefix(kind): Kind(kind) for kind in kinds}
        self._streams: dict[bytes, str] = {}
        self._known: dict[bytes, str] = {}
        """Engine key -> id, of every record."""

    def records(self, changes: Iterable[tuple[bytes, bytes | None]]) -> Iterator[Told]:
        """Yield the changes of records; learn which chains there are."""
        for key, sealed in changes:
            kind = self._kinds.get(key[:PREFIX_SIZE])
            if kind is None:
                continue
            if sealed is None:
                if key in self._known:
                    yield kind.value, self._known[key], None
                continue
            opened = open_record(self._keyring, kind=kind.value, engine_key=key, sealed=sealed)
            record = decode(kind, opened.plaintext)
            if kind is Kind.AUDIT_STREAM:
                self._streams[self._keyring.stream_prefix(record.id)] = record.id
                continue
            self._known[key] = record.id
            yield kind.value, record.id, plain(record)

    def duty(self, changes: Iterable[tuple[bytes, bytes | None]]) -> Iterator[Told]:
        """Yield who holds the duty from now on, and what was done under it."""
        for key, value in changes:
            stream = self._streams.get(key[:PREFIX_SIZE])
            if key == DUTY_KEY:
                yield DUTY, DUTY, None if value is None else {"holder": value.decode()}
            elif stream is not None and value is not None:
                link = open_link(self._keyring, stream, Entry(key, value, 0, 0))
                done = sorted(DUTY_ACTIONS & {one.action for one in link.entries if one.allowed})
                if done:
                    told = {"manager_id": link.manager_id, "actions": done}
                    yield LINK, f"{stream}/{link.sequence}", told


def _content(value: str | None) -> bytes | None:
    return None if value is None else base64.b64decode(value)


def _main(socket: Path, seal_file: Path, sealed: Path, output: Path) -> None:
    keyring = asyncio.run(fetch_keyring(socket, seal_file, sys.stdin.read().strip()))
    with sealed.open() as lines, output.open("w") as out:
        for event in opened(lines, keyring):
            out.write(json.dumps(event) + "\n")


if __name__ == "__main__":
    _main(*map(Path, sys.argv[1:]))
