"""Signed checkpoints against a store: what was cut off together shows, and nothing else does."""

from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cluster.control.audit_query import AuditFilter, AuditQuery
from cluster.control.audit_statements import AuditStatements
from cluster.control.refusals import Refusals
from cluster.control.requests import Requests
from cluster.engine.seam import Delete, Operation, Put
from cluster.pki import audit_statement, csr
from cluster.pki.audit_statement import AuditStatement
from cluster.pki.ca import Authority, issue_leaf
from cluster.protocol.errors import AuditChainBroken, InvalidRequest, PermissionDenied
from cluster.protocol.identity import Kind as IdentityKind
from cluster.protocol.identity import SpiffeId
from cluster.protocol.ids import ManagerId
from cluster.store.audit_trim import AuditTrim
from cluster.store.records import CLUSTER_ID, AuditEntry, AuthorityRecord
from cluster.store.sealed_store import SealedStore
from cluster.store.steps import Replace, Write
from tests.support.stores import StoreLab
from tests.unit.control.lab import ADMIN, AUDITOR, DEPLOYER, TRUST_DOMAIN, ControlLab

Rows = dict[bytes, bytes]
Changes = dict[str, Any]


class Signer:
    """A manager's key and certificate, from the authority in the store."""

    def __init__(self, lab: ControlLab) -> None:
        authority = authority_of(lab, "control")
        self.control = authority.certificate
        self._root = authority_of(lab, "root").certificate
        held = Authority.from_der(authority.certificate, authority.private_key)
        key = csr.new_key()
        leaf = issue_leaf(
            held, key.public_key(), SpiffeId(TRUST_DOMAIN, IdentityKind.MANAGER, "m1"),
            timedelta(hours=1), lab.clock, lab.entropy,
        )  # fmt: skip
        self._key = csr.key_to_pem(key)
        self._chain = leaf.public_bytes(Encoding.PEM)
        self.changes: Changes = {}

    def __call__(self, statement: AuditStatement) -> bytes:
        """Sign, with `changes` in place of what is true."""
        stated = msgspec.structs.replace(statement, **self.changes)
        return audit_statement.sign(stated, self._key, self._chain, self._root)


def authority_of(lab: ControlLab, role: str) -> AuthorityRecord:
    stored = lab.view.authorities.get(role)
    assert stored is not None
    return stored.record


@pytest.fixture
def signer(lab: ControlLab) -> Signer:
    return Signer(lab)


@pytest.fixture
def statements(lab: ControlLab, signer: Signer) -> AuditStatements:
    return statements_on(lab.store, lab, signer)


def statements_on(store: SealedStore, lab: ControlLab, signer: Signer) -> AuditStatements:
    query = AuditQuery(Requests(store, lab.clock, Refusals(lab.clock)))
    return AuditStatements(query, store, lab.clock, ManagerId("m1"), signer)


async def compare(statements: AuditStatements, file: bytes) -> dict[str, Any]:
    return cast("dict[str, Any]", await statements.compare(AUDITOR, file))


def words(verdict: dict[str, Any]) -> str:
    return " | ".join(wrong["what"] for wrong in verdict["wrong"])


async def rows_of(stores: StoreLab) -> Rows:
    rows: Rows = {}
    after: bytes | None = None
    while True:
        page = await stores.engine.list_page(b"", after=after)
        rows |= {entry.key: entry.value for entry in page.entries}
        if not page.more:
            return rows
        after = page.entries[-1].key


async def put_back(stores: StoreLab, old: Rows) -> None:
    """Make the engine hold what it held, records and chains alike."""
    now = await rows_of(stores)
    changes: list[Operation] = [Delete(key) for key in now.keys() - old.keys()]
    changes += [Put(key, value) for key, value in old.items() if now.get(key) != value]
    assert changes
    for change in changes:
        await stores.write_raw(change)


async def test_what_was_written_since_is_no_fault(
    lab: ControlLab, second: ControlLab, statements: AuditStatements
) -> None:
    """Both managers' chains are stated, and go on."""
    await lab.secret("a")
    await second.secret("b")
    file = await statements.make(AUDITOR)
    for number in range(3):
        await lab.secret(f"c{number}")
    verdict = await compare(statements, file)
    assert verdict["whole"], verdict["wrong"]
    assert verdict["compared"]["chains"] >= 2
    assert verdict["compared"]["forgotten"] == []


@pytest.mark.threat("T-55")
@pytest.mark.control("T-55", without="cluster/control/audit_statements.py::AuditStatements")
async def test_store_that_was_put_back_with_its_audit_is_found(
    lab: ControlLab, stores: StoreLab, statements: AuditStatements, signer: Signer
) -> None:
    """Records and chains of one earlier moment contradict each other in nothing: without the
    statement, a manager that starts on them calls them whole, however much is written later."""
    await lab.secret("a")
    old = await rows_of(stores)
    await lab.secret("b")
    file = await statements.make(AUDITOR)
    await put_back(stores, old)
    later = ControlLab(stores, await stores.open("m1", "b9"))
    for number in range(5):
        await later.secret(f"c{number}")
    restarted = statements_on(later.store, later, signer)
    without = cast("dict[str, Any]", await restarted.audit.verify(AUDITOR))
    assert without["whole"], without["wrong"]
    verdict = await compare(restarted, file)
    assert not verdict["whole"]
    assert "which the signed checkpoint states" in words(verdict)


@pytest.mark.threat("T-55")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"revision": 2**40}, "the store went back: it is at revision"),
        ({"incarnation_counter": 2}, "an older life"),
        ({"incarnation_unique": "other"}, "an older life"),
        ({"checkpoint": 9}, "a trim that the signed checkpoint states is undone"),
    ],
)
async def test_statement_of_a_later_point_says_that_the_store_went_back(
    lab: ControlLab, statements: AuditStatements, signer: Signer, changes: Changes, said: str
) -> None:
    await lab.secret("a")
    assert (await compare(statements, await statements.make(AUDITOR)))["whole"]
    signer.changes = changes
    verdict = await compare(statements, await statements.make(AUDITOR))
    assert said in words(verdict)


async def test_later_life_with_all_that_was_stated_is_whole(
    lab: ControlLab, statements: AuditStatements
) -> None:
    """Revisions count anew after a restore, so only what the chains hold is compared."""
    file = await statements.make(AUDITOR)
    stored = lab.view.cluster.get(CLUSTER_ID)
    assert stored is not None
    life = msgspec.structs.replace(stored.record, incarnation_counter=9)
    await lab.store.commit(Write((Replace(stored, life),)))
    assert (await compare(statements, file))["whole"]


@pytest.mark.threat("T-55")
async def test_link_that_reads_otherwise_is_found(
    lab: ControlLab, statements: AuditStatements, signer: Signer
) -> None:
    """Who holds the keys rewrites a chain; what was stated before does not follow."""
    await lab.secret("a")
    whole = await statements.make(AUDITOR)
    proven = audit_statement.proven(whole, [signer.control], TRUST_DOMAIN)
    head = msgspec.structs.replace(proven.chains[0], digest="00" * 32)
    signer.changes = {"chains": (head, *proven.chains[1:])}
    verdict = await compare(statements, await statements.make(AUDITOR))
    assert f"link {head.last_link} of {head.chain} is not the one" in words(verdict)
    assert (await compare(statements, whole))["whole"]


async def test_trimmed_links_are_behind_the_checkpoint(
    lab: ControlLab, stores: StoreLab, statements: AuditStatements, tmp_path: Path
) -> None:
    """Right at the checkpoint, and one trim and some writes later."""
    trim = AuditTrim(lab.store, stores.clock, stores.entropy, tmp_path / "audit", ManagerId("m1"))
    await lab.secret("a")
    files = [await statements.make(AUDITOR)]
    await trim.trim((), _entry)
    files.append(await statements.make(AUDITOR))
    await lab.secret("b")
    await trim.trim((), _entry)
    for file in files:
        verdict = await compare(statements, file)
        assert verdict["whole"], verdict["wrong"]
        assert verdict["compared"]["forgotten"] == []


async def test_chain_that_ended_and_was_trimmed_is_told_and_no_fault(
    lab: ControlLab, stores: StoreLab, statements: AuditStatements, signer: Signer, tmp_path: Path
) -> None:
    """Of an earlier boot; before the trims that forget it, its loss would be a fault."""
    await lab.secret("a")
    file = await statements.make(AUDITOR)
    lab = ControlLab(stores, await stores.open("m1", "b2"))
    trim = AuditTrim(lab.store, stores.clock, stores.entropy, tmp_path / "audit", ManagerId("m1"))
    restarted = statements_on(lab.store, lab, signer)
    await trim.trim((), _entry)
    for number in range(3):
        await lab.secret(f"b{number}")
        await trim.trim((), _entry)
    verdict = await compare(restarted, file)
    assert verdict["whole"], verdict["wrong"]
    assert all("/b1/" in chain for chain in verdict["compared"]["forgotten"])
    assert verdict["compared"]["forgotten"]


@pytest.mark.threat("T-55")
async def test_statement_of_another_cluster_and_of_nobody_is_refused(
    lab: ControlLab, statements: AuditStatements, signer: Signer
) -> None:
    file = await statements.make(AUDITOR)
    assert (await compare(statements, file))["whole"]
    with pytest.raises(InvalidRequest):
        await compare(statements, file[:-9])
    signer.changes = {"cluster_id": "c2"}
    with pytest.raises(InvalidRequest, match="another cluster"):
        await compare(statements, await statements.make(AUDITOR))


async def test_nothing_is_signed_that_contradicts_itself(
    lab: ControlLab, stores: StoreLab, statements: AuditStatements
) -> None:
    await lab.secret("a")
    await statements.make(AUDITOR)
    for number in range(4):
        await lab.store.commit(Write((), (_entry(str(number)),)))
    stream = next(iter(lab.view.audit_streams))
    await stores.write_raw(Delete(stores.keyring.stream_key(stream, 1)))
    with pytest.raises(AuditChainBroken, match="no checkpoint is signed"):
        await statements.make(AUDITOR)


async def test_admins_and_auditors_alone_and_on_record(
    lab: ControlLab, statements: AuditStatements
) -> None:
    for ask in (statements.make(DEPLOYER), statements.compare(DEPLOYER, b"")):
        with pytest.raises(PermissionDenied):
            await ask
    await statements.compare(ADMIN, await statements.make(AUDITOR))
    page = await AuditQuery(lab.requests).read(ADMIN, AuditFilter(resource="audit"))
    entries = cast("list[dict[str, Any]]", page["entries"])
    told = [(entry["action"], entry["detail"]) for entry in entries]
    assert told[:2] == [
        ("audit.read", "checkpoint"),
        ("audit.read", "verify against a checkpoint"),
    ]


def _entry(detail: str) -> AuditEntry:
    return AuditEntry(
        at=0.0, caller="m1", action="audit.trim", resource="audit", allowed=True, detail=detail
    )
