"""What was exported from the audit: verified, read by local root, removed by age, all on record."""

import os
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.control.audit_archives import AuditArchives
from cluster.control.audit_query import AuditFilter, AuditQuery
from cluster.control.policy import Principal, Role
from cluster.protocol.errors import AuditChainBroken, InvalidRequest
from cluster.protocol.identity import Kind, SpiffeId
from cluster.protocol.ids import ManagerId
from cluster.store.audit_archive import verify_archive
from cluster.store.audit_trim import AuditTrim
from cluster.store.records import AuditEntry
from tests.support.stores import StoreLab
from tests.unit.control.lab import AUDITOR, MANAGER, TRUST_DOMAIN, ControlLab

DAY_S = 86_400.0


class Archive:
    """One manager's export files."""

    def __init__(self, lab: ControlLab, stores: StoreLab, directory: Path) -> None:
        self.lab = lab
        self.directory = directory / "audit"
        identity = SpiffeId(TRUST_DOMAIN, Kind.MANAGER, MANAGER)
        own = Principal(identity, str(identity), Role.MANAGER)
        self.archives = AuditArchives(
            lab.requests, self.directory, stores.root_key, own, ManagerId(MANAGER), 30 * DAY_S
        )
        self._trim = AuditTrim(
            lab.store, stores.clock, stores.entropy, self.directory, ManagerId(MANAGER)
        )

    async def export(self, secret: str) -> Path:
        """Create a secret and have all links exported."""
        await self.lab.secret(secret, b"CANARY-7f3a")
        checkpoint = await self._trim.trim((), _entry)
        return self.directory / checkpoint.export

    async def verdicts(self) -> dict[str, dict[str, Any]]:
        answer = cast("dict[str, Any]", await self.archives.verify())
        assert answer["whole"] == all(one["verdict"] == "whole" for one in answer["archives"])
        return {one["name"]: one for one in answer["archives"]}


@pytest.fixture
def archive(lab: ControlLab, stores: StoreLab, tmp_path: Path) -> Archive:
    return Archive(lab, stores, tmp_path)


async def test_each_file_is_whole_and_follows_the_one_before(archive: Archive) -> None:
    paths = [await archive.export(name) for name in ("a", "b", "c")]
    verdicts = await archive.verdicts()
    assert list(verdicts) == [path.name for path in paths]
    assert {one["verdict"] for one in verdicts.values()} == {"whole"}
    assert [one["number"] for one in verdicts.values()] == [1, 2, 3]
    assert [one["follows"] for one in verdicts.values()] == ["", paths[0].name, paths[1].name]


async def test_file_whose_neighbour_lies_elsewhere_is_whole_by_itself(archive: Archive) -> None:
    paths = [await archive.export(name) for name in ("a", "b", "c")]
    paths[1].unlink()
    verdicts = await archive.verdicts()
    assert {one["verdict"] for one in verdicts.values()} == {"whole"}
    assert verdicts[paths[2].name]["follows"] == ""


@pytest.mark.threat("T-43")
@pytest.mark.parametrize("damage", ["flipped", "cut", "exchanged", "missing"])
async def test_changed_file_is_named(archive: Archive, damage: str) -> None:
    """Before the damage every file is whole; `exchanged` puts an older file in the newest's
    place."""
    old, newest = [await archive.export(name) for name in ("a", "b")]
    assert {one["verdict"] for one in (await archive.verdicts()).values()} == {"whole"}
    content = newest.read_bytes()
    middle = len(content) // 2
    match damage:
        case "flipped":
            flipped = bytes([content[middle] ^ 1])
            newest.write_bytes(content[:middle] + flipped + content[middle + 1 :])
        case "cut":
            newest.write_bytes(content[:middle])
        case "exchanged":
            newest.write_bytes(old.read_bytes())
        case _:
            newest.unlink()
    verdicts = await archive.verdicts()
    assert {name: one["verdict"] for name, one in verdicts.items()} == {
        old.name: "whole",
        newest.name: "broken",
    }


async def test_entries_of_a_file_are_read_and_the_reading_is_on_record(
    lab: ControlLab, archive: Archive
) -> None:
    path = await archive.export("db")
    found = [entry async for entry in archive.archives.entries(path.name)]
    assert "secret/db" in {entry["resource"] for entry in found}
    assert "CANARY" not in repr(found)
    answer = await AuditQuery(lab.requests).read(AUDITOR, AuditFilter(caller="local-root"))
    (entry,) = cast("list[dict[str, Any]]", answer["entries"])
    assert (entry["action"], entry["detail"]) == ("audit.read", f"export {path.name}")


@pytest.mark.control("T-43", without="cluster/store/audit_archive.py::verify_archive")
async def test_older_file_passes_for_the_newest_without_the_checkpoint(
    archive: Archive, stores: StoreLab
) -> None:
    old, newest = [await archive.export(name) for name in ("a", "b")]
    newest.write_bytes(old.read_bytes())
    assert (await archive.verdicts())[newest.name]["verdict"] == "broken"
    judged = verify_archive(archive.directory, stores.root_key, None, MANAGER)
    assert {one.name: one.wrong for one in judged} == {old.name: "", newest.name: ""}


@pytest.mark.threat("T-43")
async def test_reading_stops_where_a_file_is_not_whole(archive: Archive) -> None:
    path = await archive.export("db")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AuditChainBroken):
        [entry async for entry in archive.archives.entries(path.name)]


@pytest.mark.parametrize("name", ["../seal", "x.links", ""])
async def test_only_an_export_file_is_read(archive: Archive, name: str) -> None:
    await archive.export("db")
    with pytest.raises(InvalidRequest):
        [entry async for entry in archive.archives.entries(name)]


async def test_old_files_go_and_it_is_on_record(lab: ControlLab, archive: Archive) -> None:
    old, kept, newest = [await archive.export(name) for name in ("a", "b", "c")]
    for path, age_days in ((old, 31), (kept, 29), (newest, 0)):
        at = 1_000 * DAY_S - age_days * DAY_S
        os.utime(path, (at, at))
    lab.clock.advance(10_000 * DAY_S)
    assert await archive.archives.expire() == [old.name]
    assert not old.exists()
    assert kept.exists()
    assert newest.exists()
    answer = await AuditQuery(lab.requests).read(AUDITOR, AuditFilter(action="audit.expire"))
    (entry,) = cast("list[dict[str, Any]]", answer["entries"])
    assert entry["detail"] == old.name
    assert await archive.archives.expire() == []


def _entry(detail: str) -> AuditEntry:
    return AuditEntry(
        at=0.0, caller="m1", action="audit.trim", resource="audit", allowed=True, detail=detail
    )
