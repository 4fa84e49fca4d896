"""The export file: audit links that were trimmed from the store, on one manager's disk.

Owns the format and what makes it durable. A file is written once, under a name that ends in
`.part`; it takes its own name only when all of it is flushed, so a file under its own name is
whole. Links are sealed again under a key that lives in this file alone, wrapped under the root key:
the file stays readable when the store's key epochs are destroyed, and shows to others no more than
sizes. Source: ADR 0011.

    head         magic "SRAUDT" | format u16 = 1 | size u32 | wrapped keyring
    frame        size u32 | sealed link, as (kind "audit-export", place u64 from 1), many
    last frame   size u32 | sealed checkpoint record, as (kind "audit-export-end", place)
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, Self

from cluster.protocol.errors import AuditChainBroken, OpenFailed
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.envelope import open_record, seal_record
from cluster.seal.keyring import Keyring
from cluster.store.audit_chain import NO_LINK, ChainHead, trimmed_head
from cluster.store.records import (
    AuditCheckpointRecord,
    AuditRecord,
    Kind,
    decode,
    decode_audit,
    encode,
)
from cluster.system import Entropy

MAGIC: Final = b"SRAUDT\x00\x01"
LINK_KIND: Final = "audit-export"
END_KIND: Final = "audit-export-end"
SUFFIX: Final = ".links"
PART: Final = ".part"
MAX_FRAME_BYTES: Final = 2_000_000
_SIZE: Final = struct.Struct(">I")


class AuditExport:
    """One export while it is written: `open`, `add`, then `finish` or `discard`."""

    def __init__(self, path: Path, file: BinaryIO, keyring: Keyring, entropy: Entropy) -> None:
        self.path = path
        self._file = file
        self._keyring = keyring
        self._entropy = entropy
        self._place = 0

    @classmethod
    def open(cls, path: Path, keyring: Keyring, wrapped: bytes, entropy: Entropy) -> Self:
        """Begin a file.

        `keyring`: made for this file; `wrapped`: the same under the root key. The directory is made
        0700, and what an export that was never finished left there is removed. Raises OSError.
        """
        path.parent.mkdir(mode=0o700, exist_ok=True)
        for left in path.parent.glob(f"*{PART}"):
            left.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.fdopen(os.open(_part(path), flags, 0o600), "wb")
        file.write(MAGIC + _SIZE.pack(len(wrapped)) + wrapped)
        return cls(path, file, keyring, entropy)

    def add(self, link: AuditRecord) -> None:
        """Take in one link, in the order of its chain. Raises OSError."""
        self._write(LINK_KIND, encode(link))

    def finish(self, checkpoint: AuditCheckpointRecord) -> None:
        """Close the file; it is durable and has its own name on return. Raises OSError."""
        self._write(END_KIND, encode(checkpoint))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        _part(self.path).rename(self.path)
        _flush(self.path.parent)
        _flush(self.path.parent.parent)

    def discard(self) -> None:
        """Remove a file that was not finished."""
        self._file.close()
        _part(self.path).unlink(missing_ok=True)

    def _write(self, kind: str, plaintext: bytes) -> None:
        self._place += 1
        sealed = seal_record(
            self._keyring,
            kind=kind,
            engine_key=_place(self._place),
            generation=self._place,
            plaintext=plaintext,
            entropy=self._entropy,
        )
        self._file.write(_SIZE.pack(len(sealed)) + sealed)


class ExportReader:
    """Reads one export file and verifies it; `checkpoint` is known once all links were read."""

    def __init__(
        self, path: Path, root_key: SecretBytes, behind: AuditCheckpointRecord | None = None
    ) -> None:
        """Read `path`; `behind`: the checkpoint of the file before, which this one must follow."""
        self._path = path
        self._root_key = root_key
        self.checkpoint: AuditCheckpointRecord | None = None
        heads = () if behind is None else behind.heads
        self._heads = {head.stream: trimmed_head(head) for head in heads}
        self._met: set[str] = set()
        """Streams that have a link in this file."""

    def links(self) -> Iterator[AuditRecord]:
        """Yield every link, chain by chain.

        Raises AuditChainBroken for a file that was cut, changed or put together, OSError.
        """
        with self._path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise AuditChainBroken("this is no audit export")
            try:
                keyring = Keyring.unwrap(self._root_key, _frame(file))
                yield from self._links(file, keyring)
            except OpenFailed:
                raise AuditChainBroken("an audit export cannot be opened") from None

    def _links(self, file: BinaryIO, keyring: Keyring) -> Iterator[AuditRecord]:
        place = 1
        while True:
            sealed = _frame(file)
            try:
                plaintext = _opened(keyring, LINK_KIND, place, sealed)
            except OpenFailed:
                break
            link = decode_audit(plaintext)
            self._follow(link)
            yield link
            place += 1
        # Only the end may be no link, and nothing follows it.
        end = decode(Kind.AUDIT_CHECKPOINT, _opened(keyring, END_KIND, place, sealed))
        if not isinstance(end, AuditCheckpointRecord) or file.read(1):
            raise OpenFailed
        self._check_end(end)
        self.checkpoint = end

    def _follow(self, link: AuditRecord) -> None:
        # Without the file before, a chain that goes on is believed where it begins here.
        previous = NO_LINK if link.sequence == 1 else link.previous
        start = ChainHead(link.manager_id, link.boot, link.lane, link.sequence - 1, previous)
        self._heads[start.stream] = self._heads.get(start.stream, start).after(link)
        self._met.add(start.stream)

    def _check_end(self, end: AuditCheckpointRecord) -> None:
        named = {head.stream: (head.sequence, head.digest) for head in end.heads}
        for stream, head in self._heads.items():
            if stream in self._met and named.get(stream) != (head.sequence, head.digest):
                raise AuditChainBroken(f"an audit export does not hold all links of {stream}")


def _part(path: Path) -> Path:
    return path.with_name(path.name + PART)


def _place(number: int) -> bytes:
    return number.to_bytes(8)


def _opened(keyring: Keyring, kind: str, place: int, sealed: bytes) -> bytes:
    opened = open_record(keyring, kind=kind, engine_key=_place(place), sealed=sealed)
    return opened.plaintext


def _frame(file: BinaryIO) -> bytes:
    size = file.read(_SIZE.size)
    if len(size) != _SIZE.size or _SIZE.unpack(size)[0] > MAX_FRAME_BYTES:
        raise AuditChainBroken("an audit export was cut off or changed")
    frame = file.read(_SIZE.unpack(size)[0])
    if len(frame) != _SIZE.unpack(size)[0]:
        raise AuditChainBroken("an audit export was cut off or changed")
    return frame


def _flush(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
