"""How long a replaced version stays active, and what the duty then does with it."""

import asyncio

import pytest

from cluster.control.retirement import CROWDED, MAX_ACTIVE
from cluster.control.service_draft import ReferenceDraft
from cluster.control.update_draft import UpdateDraft
from cluster.control.version_terms import VersionTerms
from cluster.protocol.errors import Conflict, VersionNotFound
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.audit_chain import read_chain
from tests.unit.control.lab import ControlLab, drafted
from tests.unit.control.test_secret_versions import OVERLAP, rotate, settle, states, value


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


async def test_rotations_on_two_managers_at_once_are_both_carried_out(
    lab: ControlLab, second: ControlLab
) -> None:
    """Whoever comes second meets a conflict and decides again: no number is given twice."""
    await lab.secret("db", b"1")
    await second.view.wait_for(lab.view.revision, 5)
    answers = await asyncio.gather(
        lab.secrets.rotate(lab.context(), "db", SecretBytes(b"a"), OVERLAP),
        second.secrets.rotate(second.context(), "db", SecretBytes(b"b"), OVERLAP),
    )
    assert sorted(int(str(answer.body["version"])) for answer in answers) == [2, 3]
    await lab.view.wait_for(second.view.revision, 5)
    assert states(lab) == {1: "active", 2: "active", 3: "primary"}


async def test_a_rollout_in_steps_keeps_the_old_version_beyond_its_overlap(
    lab: ControlLab,
) -> None:
    """Tasks that have not had their turn are still given it, and it is what they go back to."""
    await lab.join("n1")
    await lab.secret("db", b"1")
    await lab.service("web", "db", update=UpdateDraft(canary=1))
    await settle(lab)
    await lab.versions.update(lab.context(), "db", VersionTerms(keep=0))
    await rotate(lab, b"2", VersionTerms(overlap_s=0))
    await settle(lab)
    await lab.versions.prune(lab.context(), "db", 0)
    assert states(lab) == {1: "active", 2: "primary"}
    assert value(lab, 1) == b"1"
