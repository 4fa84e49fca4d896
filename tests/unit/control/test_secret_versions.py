"""Rollback, prune, terms and the list of versions, and the duty that retires what is due."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from cluster.control.service_draft import ReferenceDraft
from cluster.control.version_terms import VersionTerms
from cluster.protocol.errors import (
    Conflict,
    InvalidReference,
    InvalidRequest,
    PermissionDenied,
    SecretInUse,
    SecretNotFound,
    VersionNotFound,
)
from cluster.protocol.ids import SecretId, VersionNumber
from cluster.protocol.secret_bytes import SecretBytes
from tests.unit.control.lab import AUDITOR, DEPLOYER, ControlLab, drafted

DAY_S = 86_400.0
OVERLAP = VersionTerms(overlap_s=600.0)


async def rotate(lab: ControlLab, value: bytes, terms: VersionTerms | None = None) -> None:
    await lab.secrets.rotate(lab.context(), "db", SecretBytes(value), terms or VersionTerms())


def states(lab: ControlLab) -> dict[int, str]:
    """Return `state` by number; a retired version whose value is gone is `destroyed`."""
    shown: Any = lab.versions.list(AUDITOR, "db")
    return {
        one["number"]: "destroyed" if one["value"] == "destroyed" else one["state"]
        for one in shown["versions"]
    }


def value(lab: ControlLab, number: int) -> bytes:
    stored = lab.view.secret_by_name("db")
    assert stored is not None
    return lab.store.open_value(SecretId(stored.record.id), VersionNumber(number)).reveal()


async def settle(lab: ControlLab) -> None:
    await lab.settle(lab.duty())


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        (VersionTerms(overlap_s=901), "version 1 lasts"),
        (VersionTerms(overlap_s=60, expires_in_s=59), "the new version lasts"),
        (VersionTerms(overlap_s=-1), "overlap lasts"),
        (VersionTerms(overlap_s=float("nan")), "overlap lasts"),
        (VersionTerms(expires_in_s=0), "passed already"),
        (VersionTerms(expires_in_s=float("inf")), "century"),
        (VersionTerms(expires_at="2025-12-31"), "passed already"),
        (VersionTerms(expires_at="soon"), "reads 2027-01-31"),
        (VersionTerms(expires_in_s=1, expires_at="2027-01-01"), "one expiry"),
    ],
)
async def test_terms_that_cannot_be_met_are_refused_and_the_old_version_stays(
    lab: ControlLab, terms: VersionTerms, why: str
) -> None:
    await lab.secrets.create(
        lab.context(), "db", {}, SecretBytes(b"1"), VersionTerms(expires_in_s=900)
    )
    with pytest.raises(InvalidRequest, match=why):
        await rotate(lab, b"2", terms)
    assert states(lab) == {1: "primary"}


async def test_a_rollback_brings_the_version_before_back_under_its_number(lab: ControlLab) -> None:
    await lab.secret("db", b"1")
    await rotate(lab, b"2")
    await settle(lab)
    answer = await lab.versions.rollback(lab.context(), "db")
    assert (answer.body["version"], answer.body["from_version"]) == (1, 2)
    await settle(lab)
    assert states(lab) == {1: "primary", 2: "retired"}
    assert value(lab, 2) == b"2"
    await rotate(lab, b"3")
    assert states(lab)[3] == "primary", "numbers go on"


async def test_a_rollback_is_a_rollout(lab: ControlLab) -> None:
    node_id = await lab.join("n1")
    await lab.secret("db", b"1")
    await lab.service("web", "db")
    await settle(lab)
    await rotate(lab, b"2")
    await lab.mounted("web", node_id, {"db": 2})
    await settle(lab)
    answer = await lab.versions.rollback(lab.context(), "db")
    rollout = lab.view.rollouts.get(str(answer.body["rollout"]))
    assert rollout is not None
    assert (rollout.record.version, len(rollout.record.targets)) == (1, 1)
    await settle(lab)
    assert states(lab) == {1: "primary", 2: "retired"}, "nobody may have it any more"


async def test_a_rollback_again_returns_to_the_version_it_left(lab: ControlLab) -> None:
    await lab.secret("db", b"1")
    for number in (b"2", b"3"):
        await rotate(lab, number)
    await settle(lab)
    for expected in (2, 3, 2):
        answer = await lab.versions.rollback(lab.context(), "db")
        assert answer.body["version"] == expected
        await settle(lab)


async def test_impossible_rollbacks_are_refused_with_the_reason(lab: ControlLab) -> None:
    await lab.secret("db", b"1")
    with pytest.raises(Conflict, match="no version before"):
        await lab.versions.rollback(lab.context(), "db")
    for number in (b"2", b"3"):
        await rotate(lab, number)
        await settle(lab)
    for wrong, error, why in (
        (1, Conflict, "destroyed"),
        (3, Conflict, "already primary"),
        (4, VersionNotFound, "no version 4"),
        (0, VersionNotFound, "no version 0"),
    ):
        with pytest.raises(error, match=why):
            await lab.versions.rollback(lab.context(), "db", wrong)
    with pytest.raises(SecretNotFound):
        await lab.versions.rollback(lab.context(), "other")
    assert states(lab)[3] == "primary"


async def test_pinned_versions_stay_while_a_present_or_previous_spec_pins_them(
    lab: ControlLab,
) -> None:
    await lab.secret("db", b"1")
    pinned = ReferenceDraft("db", version=1)
    await lab.services.create(lab.context(), drafted("web", references=(pinned,)))
    await lab.versions.update(lab.context(), "db", VersionTerms(keep=0))
    await rotate(lab, b"2")
    await settle(lab)
    await lab.versions.prune(lab.context(), "db", 0)
    assert states(lab) == {1: "active", 2: "primary"}
    await lab.services.update(lab.context(), "web", drafted("web", "db"))
    await settle(lab)
    assert states(lab)[1] == "active", "the previous spec pins it"
    await lab.services.update(lab.context(), "web", drafted("web", "db", gid=1))
    await settle(lab)
    assert states(lab) == {1: "destroyed", 2: "primary"}


@pytest.mark.parametrize(
    ("references", "why"),
    [
        ((ReferenceDraft("db", previous=True), ReferenceDraft("db", "db.previous")), "share"),
        ((ReferenceDraft("db", previous=True, version=1),), "pins a version"),
        ((ReferenceDraft("db", "x" * 120, previous=True),), "128"),
    ],
)
async def test_references_whose_second_file_cannot_be_are_refused(
    lab: ControlLab, references: tuple[ReferenceDraft, ...], why: str
) -> None:
    await lab.secret("db")
    with pytest.raises(InvalidReference, match=why):
        await lab.services.create(lab.context(), drafted("web", references=references))


async def test_prune_destroys_what_is_not_kept_and_says_so(lab: ControlLab) -> None:
    await lab.secrets.create(lab.context(), "db", {}, SecretBytes(b"1"), VersionTerms(keep=3))
    for number in (b"2", b"3", b"4"):
        await rotate(lab, number)
    await settle(lab)
    assert states(lab) == {1: "retired", 2: "retired", 3: "retired", 4: "primary"}
    answer = await lab.versions.prune(lab.context(), "db", 1)
    assert (list(answer.body["destroyed"]), answer.body["kept"]) == ([1, 2], [3])  # type: ignore[arg-type]  # JSON
    assert len(lab.view.secret_values) == 2
    again = await lab.versions.prune(lab.context(), "db")
    assert list(again.body["destroyed"]) == []  # type: ignore[arg-type]  # JSON
    assert (await lab.versions.rollback(lab.context(), "db")).body["version"] == 3


async def test_prune_leaves_what_a_running_rollout_could_go_back_to(lab: ControlLab) -> None:
    await lab.join("n1")
    await lab.secret("db", b"1")
    await lab.service("web", "db")
    await settle(lab)
    await rotate(lab, b"2")
    await lab.versions.prune(lab.context(), "db", 0)
    assert states(lab) == {1: "active", 2: "primary"}
    assert value(lab, 1) == b"1"


async def test_fewer_kept_versions_destroy_the_oldest(lab: ControlLab) -> None:
    await lab.secrets.create(lab.context(), "db", {}, SecretBytes(b"1"), VersionTerms(keep=2))
    for number in (b"2", b"3"):
        await rotate(lab, number)
    await settle(lab)
    await lab.versions.update(lab.context(), "db", VersionTerms(keep=1))
    await settle(lab)
    assert states(lab) == {1: "destroyed", 2: "retired", 3: "primary"}


@pytest.mark.parametrize("keep", [-1, 51])
async def test_keep_has_limits(lab: ControlLab, keep: int) -> None:
    await lab.secret("db")
    with pytest.raises(InvalidRequest, match="0 to 50"):
        await lab.versions.update(lab.context(), "db", VersionTerms(keep=keep))
    with pytest.raises(InvalidRequest, match="0 to 50"):
        await lab.versions.prune(lab.context(), "db", keep)


async def test_an_update_that_changes_nothing_is_refused(lab: ControlLab) -> None:
    await lab.secret("db")
    with pytest.raises(InvalidRequest, match="what to change"):
        await lab.versions.update(lab.context(), "db", VersionTerms())


async def test_the_expiry_of_the_primary_can_be_set_and_taken_away(lab: ControlLab) -> None:
    await lab.secret("db")
    update = lab.versions.update
    await update(lab.context(), "db", VersionTerms(expires_at="2026-02-01", overlap_s=60))
    assert lab.secrets.inspect(AUDITOR, "db")["expires_at"] == "2026-02-01T00:00:00.000Z"
    with pytest.raises(InvalidRequest, match="longer than version 1 lasts"):
        await update(lab.context(), "db", VersionTerms(expires_in_s=59))
    await update(lab.context(), "db", VersionTerms(never_expires=True))
    assert lab.secrets.inspect(AUDITOR, "db")["expires_at"] is None


async def test_an_expiring_version_is_told_of_once_and_issued_on(lab: ControlLab) -> None:
    await lab.secrets.create(
        lab.context(), "db", {}, SecretBytes(b"1"), VersionTerms(expires_in_s=8 * DAY_S)
    )
    duty = lab.duty()
    events = []
    for advance_s in (0.0, DAY_S, 0.0, 7 * DAY_S, 0.0):
        lab.clock.advance(advance_s)
        with capture_logs() as logs:
            await lab.settle(duty)
        events += [one["event"] for one in logs if str(one["event"]).startswith("secret.")]
    assert events == ["secret.expiring", "secret.expired"]
    assert states(lab) == {1: "primary"}


async def test_the_list_names_who_pins_a_version_and_where_it_is(lab: ControlLab) -> None:
    await lab.secret("db", b"1")
    pinned = ReferenceDraft("db", version=1)
    await lab.services.create(lab.context(), drafted("web", references=(pinned,)))
    await rotate(lab, b"2", OVERLAP)
    shown: Any = lab.versions.list(AUDITOR, "db")
    first, second = shown["versions"]
    assert (first["pinned_by"], second["pinned_by"]) == (["web"], [])
    assert first["retire_at"] == "2026-01-01T00:10:00.000Z"
    assert (first["nodes"], second["nodes"]) == ([], [])


async def test_a_deployer_reaches_versions_of_his_own_secrets_only(lab: ControlLab) -> None:
    await lab.secret("mine", b"1", team="red")
    await lab.secret("db", b"1", team="blue")
    await lab.versions.prune(lab.context(DEPLOYER), "mine", 0)
    for use in (
        lab.versions.prune(lab.context(DEPLOYER), "db", 0),
        lab.versions.rollback(lab.context(DEPLOYER), "db"),
        lab.versions.update(lab.context(DEPLOYER), "db", VersionTerms(keep=0)),
    ):
        with pytest.raises(PermissionDenied):
            await use
    with pytest.raises(PermissionDenied):
        lab.versions.list(DEPLOYER, "db")


async def test_a_secret_whose_version_before_is_referred_to_is_not_removed(
    lab: ControlLab,
) -> None:
    await lab.secret("db", b"1")
    both = ReferenceDraft("db", previous=True)
    await lab.services.create(lab.context(), drafted("web", references=(both,)))
    with pytest.raises(SecretInUse, match="web"):
        await lab.secrets.remove(lab.context(), "db")


async def test_a_removed_secret_leaves_no_value(lab: ControlLab) -> None:
    await lab.secrets.create(lab.context(), "db", {}, SecretBytes(b"1"), VersionTerms(keep=5))
    for number in (b"2", b"3"):
        await rotate(lab, number)
    await settle(lab)
    await lab.secrets.remove(lab.context(), "db")
    assert len(lab.view.secret_values) == 0
