"""A manager that was taken over: what it can rewrite, and what then shows.

It holds the root key, so no seal stops it: it makes each link of a chain anew, and every check that
looks into the store alone calls that whole. What was stated before and is kept elsewhere does not
follow.
"""

from typing import Any, cast

import msgspec
import pytest

from cluster.control.audit_query import AuditFilter, AuditQuery
from cluster.engine.seam import Put
from cluster.seal.envelope import seal_record
from cluster.store.audit_chain import AUDIT_KIND, ChainHead, open_link
from cluster.store.records import AuditEntry, AuditRecord, encode
from tests.support.stores import StoreLab
from tests.unit.control.lab import AUDITOR, ControlLab
from tests.unit.control.test_audit_statements import Signer, compare, statements_on, words

DEED = "its-deed"


async def links_of(stores: StoreLab, stream: str) -> list[AuditRecord]:
    """Return a chain as whoever holds the keys reads it."""
    links: list[AuditRecord] = []
    while True:
        entry = await stores.engine.read(stores.keyring.stream_key(stream, len(links) + 1))
        if entry is None:
            return links
        links.append(open_link(stores.keyring, stream, entry))


def told_otherwise(entries: tuple[AuditEntry, ...]) -> tuple[AuditEntry, ...]:
    """Lay what was done at another's door."""
    return tuple(
        msgspec.structs.replace(entry, caller="somebody else") if DEED in entry.resource else entry
        for entry in entries
    )


async def rewrite(stores: StoreLab, stream: str) -> None:
    """Make a chain anew, link by link and each sealed, so that it contradicts nothing."""
    links = await links_of(stores, stream)
    head = ChainHead(links[0].manager_id, links[0].boot, links[0].lane)
    for old in links:
        new = head.link(told_otherwise(old.entries), old.writes)
        head = head.after(new)
        key = stores.keyring.stream_key(stream, new.sequence)
        sealed = seal_record(
            stores.keyring, kind=AUDIT_KIND, engine_key=key, generation=new.sequence,
            plaintext=encode(new), entropy=stores.entropy,
        )  # fmt: skip
        await stores.write_raw(Put(key, sealed))


async def doers(lab: ControlLab) -> set[str]:
    """Return who created it, as the audit tells."""
    page = await AuditQuery(lab.requests).read(AUDITOR, AuditFilter(resource="secret"))
    entries = cast("list[dict[str, Any]]", page["entries"])
    return {entry["caller"] for entry in entries if DEED in entry["resource"]}


@pytest.mark.threat("T-56")
@pytest.mark.control("T-56", without="cluster/control/audit_statements.py::AuditStatements")
async def test_rewritten_chain_is_found_by_whoever_kept_a_checkpoint(
    lab: ControlLab, second: ControlLab, stores: StoreLab
) -> None:
    """Without the checkpoint another manager, started later, finds nothing wrong with the store."""
    await second.secret(DEED)
    await lab.secret("another")
    signer = Signer(lab)
    kept = await statements_on(lab.store, lab, signer).make(AUDITOR)
    (doer,) = await doers(lab)
    streams = [one for one in lab.view.audit_streams if "/m2/" in one]
    assert streams
    for stream in streams:
        await rewrite(stores, stream)
    honest = ControlLab(stores, await stores.open("m3", "b3"))
    assert await doers(honest) == {"somebody else"} != {doer}
    statements = statements_on(honest.store, honest, signer)
    without = cast("dict[str, Any]", await statements.audit.verify(AUDITOR))
    assert without["whole"], without["wrong"]
    verdict = await compare(statements, kept)
    assert not verdict["whole"]
    assert any(
        f"of {stream} is not the one that was stated" in words(verdict) for stream in streams
    )


@pytest.mark.threat("T-56")
async def test_checkpoint_of_after_the_rewriting_says_nothing_of_it(
    lab: ControlLab, second: ControlLab, stores: StoreLab
) -> None:
    """What a claim of ours must not hide: a checkpoint counts for what it was made before."""
    await second.secret(DEED)
    for stream in [one for one in lab.view.audit_streams if "/m2/" in one]:
        await rewrite(stores, stream)
    honest = ControlLab(stores, await stores.open("m3", "b3"))
    statements = statements_on(honest.store, honest, Signer(lab))
    assert (await compare(statements, await statements.make(AUDITOR)))["whole"]
