"""The audit that left the store: this manager's export files, read by local root, removed by age.

Owns who may read them, that it is on record, and when a file has had its time. The format is
`store.audit_export`'s, the verdict `store.audit_archive`'s. Source: ADR 0011.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec
import structlog

from cluster.control.audit_query import RESOURCE, entry_shown
from cluster.control.callers import LOCAL_ROOT
from cluster.control.moments import moment
from cluster.control.policy import Action, Principal, authorize
from cluster.control.requests import JSON, Requests
from cluster.protocol.errors import ClusterError, IntegrityError
from cluster.protocol.ids import ManagerId
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.audit_archive import Archived, archive_path, archive_paths, verify_archive
from cluster.store.audit_export import ExportReader
from cluster.store.records import AuditRecord
from cluster.store.start_check import checkpoint_of
from cluster.store.steps import Write

log = structlog.get_logger(__name__)

LOOK_S: Final = 3_600.0
LINKS_AT_ONCE: Final = 200


@dataclass(frozen=True, slots=True)
class AuditArchives:
    """The export files in one manager's data directory."""

    requests: Requests
    directory: Path
    root_key: SecretBytes
    own: Principal
    """This manager itself, for what it removes."""
    manager_id: ManagerId
    keep_s: float | None = None
    """How much older than the newest file a file may get; None: nothing is removed."""

    async def verify(self) -> dict[str, JSON]:
        """Return every file with its verdict, for local root."""
        await self._record(LOCAL_ROOT, Action.AUDIT_READ, "verify archives")
        checkpoint = checkpoint_of(self.requests.store)
        judged = await asyncio.to_thread(
            verify_archive, self.directory, self.root_key, checkpoint, self.manager_id
        )
        return {
            "archives": [_shown(one) for one in judged],
            "whole": not any(one.wrong for one in judged),
        }

    async def entries(self, name: str) -> AsyncIterator[dict[str, JSON]]:
        """Yield every entry in a file, chain by chain, for local root.

        Raises InvalidRequest for a name that is not there, AuditChainBroken where the file stops
        being whole: what was yielded before is verified.
        """
        path = archive_path(self.directory, name)
        await self._record(LOCAL_ROOT, Action.AUDIT_READ, f"export {name}")
        links = ExportReader(path, self.root_key).links()
        while some := await asyncio.to_thread(_some, links):
            for link in some:
                for entry in link.entries:
                    yield entry_shown(link, entry)

    async def run(self) -> None:
        """Remove what has had its time, for ever."""
        while self.keep_s is not None:
            await asyncio.sleep(LOOK_S)
            try:
                await self.expire()
            except IntegrityError:
                raise
            except (ClusterError, OSError) as error:
                log.warning("audit.not_expired", error=type(error).__name__)

    async def expire(self) -> list[str]:
        """Remove the files that are too old, on record before they go; return their names.

        Age is counted back from the newest file and not from now: a clock that jumps ahead would
        take all of the audit with it.
        """
        old = await asyncio.to_thread(self._old)
        for path in old:
            await self._record(self.own, Action.AUDIT_EXPIRE, path.name)
            await asyncio.to_thread(path.unlink, missing_ok=True)
            log.info("audit.archive_removed", archive=path.name)
        return [path.name for path in old]

    def _old(self) -> list[Path]:
        times = [(path, path.stat().st_mtime) for path in archive_paths(self.directory)]
        if self.keep_s is None or not times:
            return []
        end = max(time for _, time in times) - self.keep_s
        return [path for path, time in times if time < end]

    async def _record(self, principal: Principal, action: Action, detail: str) -> None:
        entry = authorize(principal, action, RESOURCE, self.requests.clock.now())
        entry = msgspec.structs.replace(entry, detail=detail)
        await self.requests.store.commit(Write((), (entry,)))


def _some(links: Iterator[AuditRecord]) -> list[AuditRecord]:
    return list(islice(links, LINKS_AT_ONCE))


def _shown(one: Archived) -> dict[str, JSON]:
    end = one.checkpoint
    return {
        "name": one.name,
        "verdict": "broken" if one.wrong else "whole",
        "links": one.links,
        "number": None if end is None else end.number,
        "up_to": None if end is None else moment(end.at),
        "follows": one.behind,
        "why": one.wrong,
    }
