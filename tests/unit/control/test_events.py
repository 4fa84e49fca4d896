"""Events: what is told of which change, to whom, in what order, and from where on."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from cluster.control.events import EventFilter, Events, Line
from cluster.control.policy import Principal, Role
from cluster.control.version_terms import VersionTerms
from cluster.protocol.errors import HistoryGone, InvalidRequest, PermissionDenied, Unavailable
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import Availability, Kind
from tests.support.stores import StoreLab
from tests.unit.control.lab import ADMIN, AUDITOR, DEPLOYER, ControlLab, operator

ALL = EventFilter()


@pytest.fixture
def events(lab: ControlLab) -> Events:
    return Events(lab.requests)


def now(lab: ControlLab) -> str:
    """Return the revision that the manager shows."""
    return str(lab.store.revision(lab.view.revision))


async def told(
    events: Events, since: str | None, principal: Principal = ADMIN, wanted: EventFilter = ALL
) -> list[dict[str, Any]]:
    """Return all events up to now, without the lines that only tell the revision."""
    stream = await events.open(lambda: principal, wanted, since=since)
    lines = [dict(line) async for line in stream]
    assert set(lines[-1]) == {"revision"}
    return [line for line in lines if "type" in line]


def brief(found: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(one["type"], one["action"], one["name"]) for one in found]


@pytest.mark.threat("T-50")
async def test_a_secrets_life_is_told_with_who_and_why(lab: ControlLab, events: Events) -> None:
    since = now(lab)
    await lab.secret("db", b"value-canary")
    await lab.secrets.rotate(lab.context(), "db", SecretBytes(b"value-canary-2"))
    await lab.secrets.remove(lab.context(), "db")
    found = await told(events, since)
    assert brief(found) == [
        ("secret", "create", "db"), ("secret", "update", "db"), ("secret", "remove", "db"),
    ]  # fmt: skip
    assert [one["cause"] for one in found] == ["secret.create", "secret.rotate", "secret.remove"]
    assert {one["by"] for one in found} == {ADMIN.name}
    assert found[1]["attributes"] == {"version.old": 1, "version.new": 2}
    assert len({one["id"] for one in found}) == 1
    assert all(one["at"] and one["request_id"] for one in found)
    assert b"value-canary" not in msgspec.json.encode(found)


async def test_a_credential_that_expires_is_told_of_once_before_and_once_after(
    lab: ControlLab, events: Events
) -> None:
    terms = VersionTerms(expires_in_s=10.0)
    await lab.secrets.create(lab.context(), "db", {}, SecretBytes(b"1"), terms)
    since, duty = now(lab), lab.duty()
    for advance_s in (0.0, 10.0, 0.0):
        lab.clock.advance(advance_s)
        await lab.settle(duty)
    found = await told(events, since, wanted=EventFilter(types=frozenset({"secret"})))
    assert [(one["cause"], one["attributes"]) for one in found] == [
        ("secret.warn", {"warning.new": "expiring"}),
        ("secret.warn", {"warning.old": "expiring", "warning.new": "expired"}),
    ]


async def test_a_stream_goes_on_behind_any_revision(lab: ControlLab, events: Events) -> None:
    since = now(lab)
    for name in ("one", "two", "three"):
        await lab.secret(name)
    whole = await told(events, since)
    assert [one["name"] for one in whole] == ["one", "two", "three"]
    for at, one in enumerate(whole):
        assert await told(events, one["revision"]) == whole[at + 1 :]


async def test_another_manager_tells_the_same(
    lab: ControlLab, second: ControlLab, events: Events
) -> None:
    """What one manager began, another goes on with."""
    since = now(lab)
    await lab.secret("db")
    await second.secret("other")
    await lab.store.mark()
    assert await told(Events(second.requests), since) == await told(events, since)


async def test_a_follower_is_told_as_it_happens(lab: ControlLab, events: Events) -> None:
    await lab.secret("before")
    stream = await events.open(lambda: ADMIN, ALL, follow=True)
    async with aclosing(stream):
        assert set(await anext(stream)) == {"revision"}
        await lab.secret("after")
        event = await anext(stream)
        assert (event["type"], event["action"], event["name"]) == ("secret", "create", "after")
        # Only this line says that the revision is whole.
        assert await anext(stream) == {"revision": event["revision"]}


@pytest.mark.threat("T-50")
async def test_a_deployer_is_told_of_what_carries_his_labels(
    lab: ControlLab, events: Events
) -> None:
    since = now(lab)
    await lab.secret("mine", team="red")
    await lab.secret("theirs", team="blue")
    await lab.service("web", labels={"team": "red"})
    await lab.join("n1")
    await lab.secrets.set_labels(lab.context(), "mine", {"team": "blue"}, [])
    await lab.secrets.rotate(lab.context(), "mine", SecretBytes(b"2"))
    found = await told(events, since, DEPLOYER)
    assert brief(found) == [
        ("secret", "create", "mine"),
        ("service", "create", "web"),
        # That it left his reach is the last he hears of it.
        ("secret", "update", "mine"),
    ]
    everything = brief(await told(events, since, AUDITOR))
    assert ("secret", "create", "theirs") in everything
    assert ("node", "create", "n1") in everything


@pytest.mark.threat("T-50")
async def test_a_deployer_without_labels_is_told_of_no_node(
    lab: ControlLab, events: Events
) -> None:
    since = now(lab)
    await lab.join("n1")
    await lab.secret("db")
    found = await told(events, since, operator("dora", Role.DEPLOYER))
    assert brief(found) == [("secret", "create", "db")]


@pytest.mark.threat("T-50")
async def test_rights_that_were_taken_away_end_the_stream(lab: ControlLab, events: Events) -> None:
    stands = [ADMIN]

    def who() -> Principal:
        if not stands:
            raise PermissionDenied
        return stands[0]

    stream = await events.open(who, ALL, follow=True)
    await anext(stream)
    stands.clear()
    await lab.secret("later")
    with pytest.raises(PermissionDenied):
        await anext(stream)


async def test_nodes_are_told_by_state_and_removal(lab: ControlLab, events: Events) -> None:
    since = now(lab)
    node_id = await lab.join("n1")
    await lab.nodes.update(lab.context(), "n1", add_labels={}, availability=Availability.DRAIN)
    await lab.nodes.remove(lab.context(), "n1")
    found = await told(events, since, wanted=EventFilter(types=frozenset({"node"})))
    assert [(one["action"], one["attributes"]) for one in found] == [
        ("create", {"availability.new": "active"}),
        ("update", {"state.new": "ready"}),
        ("update", {"availability.old": "active", "availability.new": "drain"}),
        ("remove", {}),
    ]
    assert {one["id"] for one in found} == {node_id}
    assert {one["name"] for one in found} == {"n1"}


async def test_filters_take_one_of_each_field(lab: ControlLab, events: Events) -> None:
    since = now(lab)
    await lab.secret("a")
    await lab.secret("b")
    await lab.secrets.remove(lab.context(), "a")
    wanted = EventFilter.of(["secret"], ["create", "remove"], ["a"])
    assert brief(await told(events, since, wanted=wanted)) == [
        ("secret", "create", "a"), ("secret", "remove", "a"),
    ]  # fmt: skip
    for terms in (("volume", "create"), ("secret", "rotate")):
        with pytest.raises(InvalidRequest):
            EventFilter.of([terms[0]], [terms[1]], [])


@pytest.mark.threat("T-50")
async def test_history_that_is_gone_is_refused_and_names_where_to_begin(
    lab: ControlLab, stores: StoreLab, events: Events
) -> None:
    since = now(lab)
    await lab.secret("lost")
    await lab.secret("lost-too")
    oldest = now(lab)
    await stores.engine.compact(lab.view.revision)
    with pytest.raises(HistoryGone) as refused:
        await told(events, since)
    await lab.secret("later")
    assert f" {oldest} " in refused.value.message
    kept = [("secret", "create", "later")]
    assert brief(await told(events, oldest)) == kept
    assert brief(await told(events, None)) == kept


async def test_a_follower_that_is_too_slow_is_told_so(
    lab: ControlLab, stores: StoreLab, events: Events
) -> None:
    stream: AsyncGenerator[Line, None] = await events.open(lambda: ADMIN, ALL, follow=True)
    await anext(stream)
    for number in range(3):
        await lab.secret(f"s{number}")
    await stores.engine.compact(lab.view.revision)
    with pytest.raises(HistoryGone):
        await anext(stream)


@pytest.mark.threat("T-50")
async def test_states_under_a_destroyed_key_are_gone(
    lab: ControlLab, stores: StoreLab, events: Events
) -> None:
    """What was written under a key epoch that is no more cannot be told, and nothing is skipped."""
    since = now(lab)
    await lab.secret("db")
    await stores.put_raw(stores.key(Kind.SECRET, "x" * 26), b"sealed under no key that is left")
    with pytest.raises(HistoryGone):
        await told(events, since)


@pytest.mark.parametrize("since", ["nonsense", "1.2", ""])
async def test_what_is_no_revision_is_refused(events: Events, since: str) -> None:
    with pytest.raises(InvalidRequest):
        await told(events, since)


async def test_revisions_of_another_life_or_the_future_are_refused(
    lab: ControlLab, events: Events
) -> None:
    counter, unique, number = now(lab).split(".")
    with pytest.raises(HistoryGone, match="earlier life"):
        await told(events, f"{int(counter) - 1}.{unique}.{number}")
    with pytest.raises(Unavailable):
        await told(events, f"{counter}.{unique}.{int(number) + 1_000}")
    with pytest.raises(InvalidRequest):
        await told(events, f"{counter}.{'b' * len(unique)}.{number}")


async def test_a_node_may_not_follow(lab: ControlLab, events: Events) -> None:
    from cluster.control.callers import anonymous

    with pytest.raises(PermissionDenied):
        await events.open(lambda: anonymous("10.0.0.1"), ALL)
