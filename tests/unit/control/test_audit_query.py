"""Reading the audit: order, filters, pages, who may, and that a read is on record."""

from pathlib import Path
from typing import Any, cast

import pytest

from cluster.control import audit_query
from cluster.control.audit_query import AuditFilter, AuditQuery
from cluster.control.policy import Principal
from cluster.engine.seam import Delete, Put
from cluster.protocol.errors import InvalidRequest, PermissionDenied
from cluster.protocol.ids import ManagerId
from cluster.store.audit_trim import AuditTrim
from cluster.store.records import AuditEntry, Kind
from cluster.store.steps import Write
from tests.support.stores import StoreLab
from tests.unit.control.lab import ADMIN, AUDITOR, DEPLOYER, ControlLab


@pytest.fixture
async def audit(lab: ControlLab) -> AuditQuery:
    return AuditQuery(lab.requests)


async def read(
    audit: AuditQuery,
    principal: Principal = AUDITOR,
    **asked: Any,  # noqa: ANN401  # passed on
) -> list[dict[str, Any]]:
    """Return every entry, page by page."""
    paging = {key: asked.pop(key) for key in ("newest", "limit") if key in asked}
    found: list[dict[str, Any]] = []
    cursor: int | None = None
    while True:
        page = cast(
            "dict[str, Any]",
            await audit.read(principal, AuditFilter(**asked), cursor=cursor, **paging),
        )
        found += page["entries"]
        cursor = page["next"]
        if cursor is None:
            return found


def actions(found: list[dict[str, Any]]) -> list[str]:
    return [entry["action"] for entry in found]


async def test_entries_of_all_managers_come_in_the_order_of_commit(
    lab: ControlLab, second: ControlLab, audit: AuditQuery
) -> None:
    """Two managers write by turns, the second with a clock that is an hour behind."""
    for number in range(6):
        await (lab if number % 2 else second).secret(f"s{number}")
    found = await read(audit, action="secret.create")
    assert [entry["resource"] for entry in found] == [f"secret/s{n}" for n in range(6)]
    assert len({entry["chain"].split("/")[1] for entry in found}) == 2
    backwards = await read(audit, action="secret.create", newest=True)
    assert backwards == found[::-1]


@pytest.mark.parametrize("limit", [1, 2, 1_000])
@pytest.mark.parametrize("scan", [1, 3, 2_000])
@pytest.mark.parametrize("newest", [False, True])
async def test_pages_lose_and_repeat_nothing(
    lab: ControlLab,
    audit: AuditQuery,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    scan: int,
    newest: bool,
) -> None:
    for number in range(7):
        await lab.secret(f"s{number}")
    monkeypatch.setattr(audit_query, "SCAN_LINKS", scan)
    found = await read(audit, action="secret", limit=limit, newest=newest)
    expected = [f"secret/s{number}" for number in range(7)]
    assert [entry["resource"] for entry in found] == (expected[::-1] if newest else expected)


async def test_filters(lab: ControlLab, audit: AuditQuery) -> None:
    await lab.secret("db")
    lab.clock.advance(100.0)
    start = lab.clock.now().timestamp()
    context = lab.context()
    await lab.secrets.set_labels(context, "db", {"a": "b"}, ())
    with pytest.raises(PermissionDenied):
        lab.exposure.of_node(DEPLOYER, "n1")
    await lab.refusals.flush(lab.store)
    lab.clock.advance(100.0)
    for asked, expected in (
        ({"action": "secret"}, ["secret.create", "secret.label"]),
        ({"action": "secret.label"}, ["secret.label"]),
        ({"action": "secret.lab"}, []),
        ({"resource": "secret/db"}, ["secret.create", "secret.label"]),
        ({"resource": "secret/d"}, []),
        ({"request_id": context.request_id}, ["secret.label"]),
        ({"caller": "operator/ada", "since": start}, ["secret.label"]),
        ({"caller": "ada", "until": start}, ["secret.create"]),
        ({"caller": "da"}, []),
        ({"refused": True}, ["node.exposure"]),
    ):
        found = await read(audit, **cast("dict[str, Any]", asked))
        assert actions(found) == expected, asked


def test_filter_that_is_no_text_of_the_audit_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        AuditFilter(resource="a b\n")


async def test_read_is_on_record_before_it_is_answered_and_once_for_the_same_question(
    lab: ControlLab, audit: AuditQuery
) -> None:
    for _ in range(3):
        await read(audit, resource="audit")
    lab.clock.advance(audit_query.NOTED_S)
    await read(audit, resource="audit")
    await audit.verify(AUDITOR)
    found = await read(audit, resource="audit", caller="aud")
    assert [entry["detail"] for entry in found] == [
        "read resource=audit",
        "read resource=audit",
        "verify",
        "read caller=aud resource=audit",
    ]


@pytest.mark.threat("T-42")
async def test_deployer_reads_nothing_and_that_he_tried_is_on_record(
    lab: ControlLab, audit: AuditQuery
) -> None:
    for ask in (read(audit, DEPLOYER), audit.verify(DEPLOYER)):
        with pytest.raises(PermissionDenied):
            await ask
    await lab.refusals.flush(lab.store)
    (refused,) = await read(audit, ADMIN, refused=True)
    assert (refused["action"], refused["count"]) == ("audit.read", 2)


@pytest.mark.threat("T-42")
async def test_no_value_is_in_the_audit(lab: ControlLab, audit: AuditQuery) -> None:
    await lab.secret("db", b"CANARY-7f3a")
    found = await read(audit)
    assert "secret.create" in actions(found)
    assert "CANARY" not in repr(found)


async def test_index_goes_on_behind_a_trim(
    lab: ControlLab, stores: StoreLab, audit: AuditQuery, tmp_path: Path
) -> None:
    await lab.secret("before")
    assert len(await read(audit, action="secret")) == 1
    trim = AuditTrim(lab.store, stores.clock, stores.entropy, tmp_path / "audit", ManagerId("m1"))
    await trim.trim((), lambda detail: _entry("audit.trim", detail))
    await lab.secret("behind")
    for reader in (audit, AuditQuery(lab.requests)):
        found = await read(reader, action="secret")
        assert [entry["resource"] for entry in found] == ["secret/behind"]
    assert actions(await read(audit, action="audit.trim")) == ["audit.trim"]
    verdict = cast("dict[str, Any]", await audit.verify(ADMIN))
    assert verdict["whole"]
    assert verdict["checkpoint"]["number"] == 1


async def test_verification_of_a_whole_store_counts_what_it_read(
    lab: ControlLab, second: ControlLab, audit: AuditQuery
) -> None:
    await lab.secret("a")
    await second.secret("b")
    verdict = cast("dict[str, Any]", await audit.verify(AUDITOR))
    assert verdict["whole"]
    assert verdict["wrong"] == []
    assert verdict["links"] == sum(chain["last_link"] for chain in verdict["chains"])
    assert {chain["chain"].split("/")[1] for chain in verdict["chains"]} == {"m1", "m2"}


@pytest.mark.threat("T-43")
@pytest.mark.parametrize("damage", ["link removed", "link replaced", "record put back"])
async def test_verification_finds_what_was_tampered_with(
    lab: ControlLab, stores: StoreLab, audit: AuditQuery, damage: str
) -> None:
    """Whoever has the engine and no key removes a link, swaps one for another's, or puts an old
    record back; before that the verdict was that all is whole."""
    await lab.secret("db")
    secret = lab.view.secret_by_name("db")
    assert secret is not None
    key = stores.key(Kind.SECRET, secret.record.id)
    old = await stores.entry(key)
    await lab.secrets.set_labels(lab.context(), "db", {"a": "b"}, ())
    for number in range(4):
        await lab.store.commit(Write((), (_entry("x", str(number)),)))
    assert (await audit.verify(AUDITOR))["whole"]
    stream = next(iter(lab.view.audit_streams))
    first, other = (stores.keyring.stream_key(stream, number) for number in (1, 2))
    match damage:
        case "link removed":
            await stores.write_raw(Delete(first))
        case "link replaced":
            await stores.write_raw(Put(first, (await stores.entry(other)).value))
        case _:
            await stores.put_raw(key, old.value)
    verdict = cast("dict[str, Any]", await audit.verify(AUDITOR))
    assert not verdict["whole"]
    kind = "secret" if damage == "record put back" else "audit"
    assert kind in {wrong["kind"] for wrong in verdict["wrong"]}


def _entry(action: str, detail: str) -> AuditEntry:
    return AuditEntry(
        at=0.0, caller="m1", action=action, resource="audit", allowed=True, detail=detail
    )
