"""The archive: the audit export files in one manager's data directory, judged together.

A file is whole by itself (`audit_export`); here it is compared with its neighbours and with the
checkpoint in the store. Files of other managers are not here, so a file whose predecessor lies
elsewhere is believed where it begins. Reads; changes nothing. Source: ADR 0011.
"""

from dataclasses import dataclass
from pathlib import Path

from cluster.protocol.errors import AuditChainBroken, InvalidRequest
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.audit_export import SUFFIX, ExportReader
from cluster.store.records import AuditCheckpointRecord


@dataclass(frozen=True, slots=True)
class Archived:
    """One file and the verdict on it."""

    name: str
    links: int = 0
    checkpoint: AuditCheckpointRecord | None = None
    """What the file ends with; None if it is broken."""
    behind: str = ""
    """The file that it was verified to follow."""
    wrong: str = ""


def archive_paths(directory: Path) -> list[Path]:
    """Return the files, the oldest first: their names begin with their checkpoint's number."""
    return sorted(directory.glob(f"*{SUFFIX}"))


def archive_path(directory: Path, name: str) -> Path:
    """Return the path of a file that is there; raise InvalidRequest for anything else."""
    for path in archive_paths(directory):
        if path.name == name:
            return path
    raise InvalidRequest("there is no such file here; see `strongroom audit archives`")


def verify_archive(
    directory: Path, root_key: SecretBytes, newest: AuditCheckpointRecord | None, owner: str
) -> list[Archived]:
    """Return the verdict on every file, and on the one that the store's checkpoint names.

    `newest`: that checkpoint; `owner`: the manager whose directory this is.
    """
    judged: list[Archived] = []
    for path in archive_paths(directory):
        judged.append(_judged(path, root_key, judged, newest))
    if (
        newest is not None
        and newest.exported_by == owner
        and newest.export not in {one.name for one in judged}
    ):
        judged.append(
            Archived(newest.export, wrong="the file that the checkpoint names is missing")
        )
    return judged


def _judged(
    path: Path, root_key: SecretBytes, before: list[Archived], newest: AuditCheckpointRecord | None
) -> Archived:
    """Return the verdict on a file: as the next of one of those before it, else by itself.

    A trim that died before its checkpoint was committed leaves a file that nothing follows, so
    not to follow a neighbour is no fault.
    """
    alone = _read(path, root_key, None)
    end = alone.checkpoint
    if end is None:
        return alone
    if newest is not None and path.name == newest.export and end != newest:
        return Archived(path.name, wrong="it does not end with the checkpoint that names it")
    for other in before:
        if other.checkpoint is not None and other.checkpoint.number == end.number - 1:
            together = _read(path, root_key, other)
            if together.checkpoint is not None:
                return together
    return alone


def _read(path: Path, root_key: SecretBytes, behind: Archived | None) -> Archived:
    reader = ExportReader(path, root_key, None if behind is None else behind.checkpoint)
    try:
        links = sum(1 for _ in reader.links())
    except AuditChainBroken as error:
        return Archived(path.name, wrong=error.message)
    except OSError as error:
        return Archived(path.name, wrong=f"it cannot be read ({error.strerror})")
    return Archived(path.name, links, reader.checkpoint, "" if behind is None else behind.name)
