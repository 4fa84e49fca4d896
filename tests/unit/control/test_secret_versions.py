"""Rollback, prune, terms and the list of versions, and the duty that retires what is due."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from cluster.control.retirement import CROWDED, MAX_ACTIVE
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
from cluster.store.audit_chain import read_chain
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


async def test_without_an_overlap_the_old_version_is_retired_once_nothing_needs_it(
    lab: ControlLab,
) -> None:
    await lab.secret("db", b"1")
    await rotate(lab, b"2")
    await settle(lab)
    assert states(lab) == {1: "retired", 2: "primary"}
    assert value(lab, 1) == b"1", "kept for a rollback"
    await rotate(lab, b"3")
    await settle(lab)
    assert states(lab) == {1: "destroyed", 2: "retired", 3: "primary"}
    with pytest.raises(VersionNotFound):
        value(lab, 1)


async def test_an_unfinished_rollout_keeps_the_old_version_active(lab: ControlLab) -> None:
    node_id = await lab.join("n1")
    await lab.secret("db", b"1")
    await lab.service("web", "db")
    await settle(lab)
    await rotate(lab, b"2")
    await settle(lab)
    assert states(lab) == {1: "active", 2: "primary"}
    await lab.mounted("web", node_id, {"db": 2})
    await settle(lab)
    assert states(lab) == {1: "retired", 2: "primary"}


async def test_an_overlap_keeps_the_old_version_active_until_it_is_over(lab: ControlLab) -> None:
    await lab.secret("db", b"1")
    await rotate(lab, b"2", OVERLAP)
    await settle(lab)
    lab.clock.advance(599)
    await settle(lab)
    assert states(lab) == {1: "active", 2: "primary"}
    lab.clock.advance(1)
    await settle(lab)
    assert states(lab) == {1: "retired", 2: "primary"}


async def test_a_node_that_is_away_does_not_prolong_an_overlap(lab: ControlLab) -> None:
    await lab.join("n1")
    await lab.secret("db", b"1")
    await lab.service("web", "db")
    await settle(lab)
    await rotate(lab, b"2", OVERLAP)
    lab.clock.advance(600)
    await settle(lab)
    assert states(lab) == {1: "retired", 2: "primary"}


async def test_overlaps_of_several_rotations_end_each_at_its_own_time(lab: ControlLab) -> None:
    await lab.secret("db", b"1")
    await rotate(lab, b"2", OVERLAP)
    await rotate(lab, b"3", VersionTerms(overlap_s=60.0))
    await settle(lab)
    assert states(lab) == {1: "active", 2: "active", 3: "primary"}
    lab.clock.advance(60)
    await settle(lab)
    assert states(lab) == {1: "active", 2: "retired", 3: "primary"}


async def test_an_overlap_survives_another_holder_of_the_duty(
    lab: ControlLab, second: ControlLab
) -> None:
    await lab.secret("db", b"1")
    await rotate(lab, b"2", OVERLAP)
    await settle(lab)
    lab.clock.advance(600)
    await second.view.wait_for(lab.view.revision, 5)
    await settle(second)
    await lab.view.wait_for(second.view.revision, 5)
    assert states(lab) == {1: "retired", 2: "primary"}


async def test_a_rotation_meanwhile_and_the_duty_do_not_undo_each_other(
    lab: ControlLab, second: ControlLab
) -> None:
    """The duty's write from a view that lags meets a conflict, and the next round is right."""
    await lab.secret("db", b"1")
    await rotate(lab, b"2")
    duty = second.duty()
    await second.view.wait_for(lab.view.revision, 5)
    await rotate(lab, b"3", OVERLAP)
    await second.view.wait_for(lab.view.revision, 5)
    await second.settle(duty)
    await lab.view.wait_for(second.view.revision, 5)
    assert states(lab) == {1: "retired", 2: "active", 3: "primary"}


async def test_the_secrets_own_overlap_ends_with_the_credential(lab: ControlLab) -> None:
    await lab.secrets.create(
        lab.context(), "db", {}, SecretBytes(b"1"), VersionTerms(overlap_s=600, expires_in_s=900)
    )
    lab.clock.advance(600)
    await rotate(lab, b"2")
    lab.clock.advance(299)
    await settle(lab)
    assert states(lab)[1] == "active"
    lab.clock.advance(1)
    await settle(lab)
    assert states(lab)[1] == "retired"


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


async def test_a_reference_to_the_version_before_keeps_it_where_no_overlap_was_named(
    lab: ControlLab,
) -> None:
    """Until the next rotation; an overlap that was named ends when it said."""
    await lab.secret("db", b"1")
    both = ReferenceDraft("db", previous=True)
    await lab.services.create(lab.context(), drafted("web", references=(both,)))
    await rotate(lab, b"2")
    await settle(lab)
    assert states(lab) == {1: "active", 2: "primary"}
    await rotate(lab, b"3", VersionTerms(overlap_s=0))
    await settle(lab)
    assert states(lab) == {1: "destroyed", 2: "retired", 3: "primary"}


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


async def test_what_the_duty_did_is_in_the_audit(lab: ControlLab) -> None:
    await lab.secret("db", b"1")
    for number in (b"2", b"3"):
        await rotate(lab, number)
        await settle(lab)
    details = [
        entry.detail
        for stream in lab.view.audit_streams
        async for link in read_chain(lab.store.engine, lab.store.keyring, stream)
        for entry in link.entries
        if entry.action == "secret.retire"
    ]
    assert details == ["db/1 retired", "db/2 retired, db/1 destroyed"]


async def test_rotations_faster_than_the_duty_retire_what_is_due_themselves(
    lab: ControlLab,
) -> None:
    await lab.secret("db", b"1")
    for number in range(2, CROWDED + 3):
        await rotate(lab, str(number).encode(), VersionTerms(overlap_s=0))
    found = states(lab)
    assert list(found.values()).count("active") <= 2
    assert found[CROWDED + 2] == "primary"
    assert len(lab.view.secret_values) == list(found.values()).count("active") + 2


async def test_too_many_overlaps_are_refused_and_the_primary_stays(lab: ControlLab) -> None:
    await lab.secret("db", b"1")
    for _ in range(MAX_ACTIVE):
        await rotate(lab, b"x", OVERLAP)
    with pytest.raises(Conflict, match="wait until an overlap ends"):
        await rotate(lab, b"y")
    assert states(lab)[MAX_ACTIVE + 1] == "primary"
    lab.clock.advance(600)
    await rotate(lab, b"y")
