"""An agent's session: what is sent, in which order, and what never is."""

import asyncio

import pytest

from cluster.dispatcher import sessions
from cluster.protocol import wire
from cluster.protocol.errors import NoQuorum, PermissionDenied, SessionExpired, Unavailable
from tests.support.stores import StoreLab
from tests.unit.dispatcher.lab import DispatchLab, WatchedEngine, hello_of


async def test_snapshot_comes_first_and_after_its_values(lab: DispatchLab) -> None:
    node_id = await lab.running("db", "tls")
    async with lab.talk(node_id) as talk:
        await talk.link.next(wire.Snapshot)
        kinds = [type(message) for message in talk.link.sent]
        assert kinds == [wire.Welcome, wire.Values, wire.Snapshot]
        assert set(talk.link.values()) == {b"db", b"tls"}


async def test_welcome_names_the_active_managers(lab: DispatchLab) -> None:
    async with lab.talk(await lab.join("one")) as talk:
        welcome = await talk.link.next(wire.Welcome)
        assert welcome.managers == ("127.0.0.1:7443",)
        assert welcome.join_addresses == ("127.0.0.1:7444",)


async def test_rotation_sends_the_new_version_alone(lab: DispatchLab) -> None:
    node_id = await lab.running("db", "tls")
    async with lab.talk(node_id) as talk:
        snapshot = await talk.link.next(wire.Snapshot)
        await talk.carry_out(snapshot)
        await lab.rotate("db", b"second")
        values = await talk.link.next(wire.Values)
        delta = await talk.link.next(wire.Delta)
    assert [one.version for one in values.values] == [2]
    assert talk.link.opened(values) == [b"second"]
    assert delta.base == snapshot.revision
    assert delta.revision.number > delta.base.number


async def test_value_that_was_not_acked_travels_again(lab: DispatchLab) -> None:
    """The agent may have refused it; only what it reported is known to be there."""
    node_id = await lab.running("db", "tls")
    async with lab.talk(node_id) as talk:
        await talk.link.next(wire.Snapshot)
        await lab.rotate("db", b"second")
        values = await talk.link.next(wire.Values)
    assert set(talk.link.opened(values)) == {b"second", b"tls"}


async def test_what_the_agent_still_holds_is_not_sent(lab: DispatchLab) -> None:
    node_id = await lab.running("db", "tls")
    async with lab.talk(node_id, lab.key_of("db")) as talk:
        await talk.link.next(wire.Snapshot)
        assert talk.link.values() == [b"tls"]
    assert lab.receipt(node_id, "db") is not None


@pytest.mark.threat("T-05")
async def test_nothing_is_sent_for_what_runs_elsewhere(lab: DispatchLab) -> None:
    await lab.running("db")
    other = await lab.join("other")
    async with lab.talk(other) as talk:
        assert (await talk.link.next(wire.Snapshot)).services == ()
        await lab.rotate("db", b"second")
        await talk.heard()
        assert talk.link.values() == []


async def test_removed_service_is_named_and_comes_back_with_its_value(lab: DispatchLab) -> None:
    node_id = await lab.running("db")
    async with lab.talk(node_id) as talk:
        await talk.carry_out(await talk.link.next(wire.Snapshot))
        await lab.remove_service("red")
        removal = await talk.link.next(wire.Delta)
        assert len(removal.removed) == 1
        await lab.service("red", "db")
        await lab.settle(lab.duty())
        values = await talk.link.next(wire.Values)
    assert talk.link.opened(values) == [b"db"]


async def test_resync_brings_a_snapshot_with_what_is_missing(lab: DispatchLab) -> None:
    node_id = await lab.running("db", "tls")
    async with lab.talk(node_id) as talk:
        await talk.carry_out(await talk.link.next(wire.Snapshot))
        talk.link.say(wire.Resync((lab.key_of("tls"),)))
        values = await talk.link.next(wire.Values)
        again = await talk.link.next(wire.Snapshot)
    assert talk.link.opened(values) == [b"db"]
    assert len(again.services) == 1


async def test_what_was_begun_before_a_resync_is_no_answer_to_it(
    lab: DispatchLab, engine: WatchedEngine
) -> None:
    """What was acknowledged in between may lie behind the barrier of that delivery."""
    node_id = await lab.running("db")
    barriers = 0
    async with lab.talk(node_id) as talk:
        await talk.carry_out(await talk.link.next(wire.Snapshot))

        async def resync() -> None:
            nonlocal barriers
            barriers += 1
            if barriers == 1:
                talk.link.say(wire.Resync(()))
                for _ in range(10):
                    await asyncio.sleep(0)  # it is taken in

        engine.before_barrier = resync
        await lab.rotate("db", b"second")
        await talk.link.next(wire.Snapshot)
        engine.before_barrier = None
    assert not any(isinstance(message, wire.Delta) for message in talk.link.sent)
    assert barriers == 2


async def test_large_values_are_split_over_messages(lab: DispatchLab) -> None:
    names = [f"large-{number}" for number in range(5)]
    node_id = await lab.running(*names)
    for name in names:
        await lab.rotate(name, b"x" * 500_000)
    async with lab.talk(node_id) as talk:
        await talk.link.next(wire.Snapshot)
    messages = [m for m in talk.link.sent if isinstance(m, wire.Values)]
    assert [len(message.values) for message in messages] == [2, 2, 1]


# --- eviction -----------------------------------------------------------------------------------


@pytest.mark.threat("T-10")
async def test_evicted_node_is_told_to_wipe_and_gets_nothing_more(lab: DispatchLab) -> None:
    node_id = await lab.running("db")
    async with lab.talk(node_id) as talk:
        await talk.carry_out(await talk.link.next(wire.Snapshot))
        count = len(talk.link.values())
        await lab.evict(node_id)
        await talk.link.next(wire.Wipe)
        await lab.rotate("db", b"second")
        talk.link.say(wire.Ack(wire.RevisionPair(0, "", 0), ()))
        await talk.ended()
    assert len(talk.link.values()) == count
    assert lab.receipt(node_id, "db", 2) is None
    assert lab.presence.connected() == 0


async def test_reported_wipe_is_recorded_before_the_connection_is_cut(lab: DispatchLab) -> None:
    node_id = await lab.running("db", "key")
    async with lab.talk(node_id) as talk:
        await talk.carry_out(await talk.link.next(wire.Snapshot))
        talk.link.say(wire.Ack(wire.RevisionPair(0, "", 0), ()))
        await talk.heard()
        receipts = [lab.receipt(node_id, name) for name in ("db", "key")]
        assert [r.dropped_at for r in receipts if r] == [None, None], "it was not told to wipe"
        await lab.evict(node_id)
        await talk.link.next(wire.Wipe)
        talk.link.say(wire.Ack(wire.RevisionPair(0, "", 0), ()))
        await talk.ended()
    receipts = [lab.receipt(node_id, name) for name in ("db", "key")]
    assert [r.dropped_at for r in receipts if r] == [lab.clock.now().timestamp()] * 2


async def test_late_ack_is_no_answer_to_the_wipe(
    lab: DispatchLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection stays until the agent has wiped, or its time is up."""
    monkeypatch.setattr(sessions, "WIPE_TIMEOUT_S", 0.3)
    node_id = await lab.running("db")
    async with lab.talk(node_id) as talk:
        snapshot = await talk.link.next(wire.Snapshot)
        await lab.evict(node_id)
        await talk.link.next(wire.Wipe)
        service = snapshot.services[0].service_id
        talk.link.say(wire.Ack(snapshot.revision, (wire.ServiceResult(service, ()),)))
        await asyncio.sleep(0.05)
        assert not talk.running.done()
        await talk.ended()


@pytest.mark.threat("T-10")
async def test_eviction_in_the_middle_of_a_delivery_stops_it(lab: DispatchLab) -> None:
    names = [f"large-{number}" for number in range(3)]
    node_id = await lab.running(*names)
    for name in names:
        await lab.rotate(name, b"x" * 500_000)

    async def evict() -> None:
        lab.on_values = None
        await lab.evict(node_id)

    lab.on_values = evict
    async with lab.talk(node_id) as talk:
        await talk.link.next(wire.Wipe)
        assert len(talk.link.values()) == 2
        assert not any(isinstance(m, wire.Snapshot) for m in talk.link.sent)


@pytest.mark.threat("T-09")
async def test_evicted_node_gets_no_lease(lab: DispatchLab) -> None:
    node_id = await lab.join("one")
    async with lab.talk(node_id) as talk:
        await talk.link.next(wire.Snapshot)
        await lab.evict(node_id)
        talk.link.say(wire.LeaseRequest(5))
        talk.link.say(wire.Ack(wire.RevisionPair(0, "", 0), ()))
        await talk.ended()
    assert not any(isinstance(m, wire.Lease) for m in talk.link.sent)
    assert any(isinstance(m, wire.Wipe) for m in talk.link.sent)


# --- what changes while it is decided ------------------------------------------------------------


@pytest.mark.threat("T-09")
async def test_service_removed_between_decision_and_barrier_is_not_sent(
    lab: DispatchLab, engine: WatchedEngine
) -> None:
    node_id = await lab.running("db")

    async def remove() -> None:
        if lab.receipt(node_id, "db") is not None:  # the receipt is there, the value not yet sent
            engine.before_barrier = None
            await lab.remove_service("red")

    engine.before_barrier = remove
    async with lab.talk(node_id) as talk:
        snapshot = await talk.link.next(wire.Snapshot)
    assert len(lab.view.receipts) == 1
    assert snapshot.services == ()
    assert talk.link.values() == []


async def test_rotation_between_decision_and_barrier_is_decided_again(
    lab: DispatchLab, engine: WatchedEngine
) -> None:
    node_id = await lab.running("db")

    async def rotate() -> None:
        if lab.receipt(node_id, "db") is not None:
            engine.before_barrier = None
            await lab.rotate("db", b"second")

    engine.before_barrier = rotate
    async with lab.talk(node_id) as talk:
        snapshot = await talk.link.next(wire.Snapshot)
    assert [file.version for file in snapshot.services[0].files] == [2]
    assert talk.link.values() == [b"second"]


@pytest.mark.threat("T-09")
async def test_without_a_quorum_nothing_is_issued_until_it_is_back(
    lab: DispatchLab, engine: WatchedEngine
) -> None:
    node_id = await lab.running("db")
    refused = asyncio.Event()

    async def no_quorum() -> None:
        refused.set()
        raise NoQuorum

    engine.before_barrier = no_quorum
    async with lab.talk(node_id) as talk:
        await asyncio.wait_for(refused.wait(), 30)
        talk.link.say(wire.LeaseRequest(1))
        await asyncio.sleep(0.05)
        assert [type(message) for message in talk.link.sent] == [wire.Welcome]
        engine.before_barrier = None
        await talk.link.next(wire.Snapshot)


# --- hello ----------------------------------------------------------------------------------------


async def test_second_hello_ends_the_session(lab: DispatchLab) -> None:
    async with lab.talk(await lab.join("one")) as talk:
        await talk.link.next(wire.Snapshot)
        talk.link.say(hello_of())
        await talk.ended()
    assert lab.presence.connected() == 0


async def test_session_starts_with_a_hello(lab: DispatchLab) -> None:
    node_id = await lab.running("db")
    async with lab.talk(node_id, hello=wire.Resync(())) as talk:
        with pytest.raises(PermissionDenied):
            await talk.ended()
    assert talk.link.sent == []


async def test_silent_agent_is_sent_away(lab: DispatchLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "HELLO_TIMEOUT_S", 0.05)
    node_id = await lab.join("one")
    async with lab.talk(node_id) as talk:
        await talk.link.next(wire.Snapshot)
    link = talk.link
    with pytest.raises(SessionExpired):
        await sessions.AgentSession(lab.parts, node_id, link, "").run()


async def test_agent_of_another_format_is_refused(lab: DispatchLab) -> None:
    async with lab.talk(await lab.join("one"), hello=hello_of(formats=(2, 3))) as talk:
        refusal = await talk.link.next(wire.Refusal)
        assert "upgrade" in refusal.message
        with pytest.raises(SessionExpired):
            await talk.ended()


def _pair(lab: DispatchLab, number: int, counter: int = 1) -> wire.RevisionPair:
    return wire.RevisionPair(counter, "first", number)


async def test_agent_that_saw_what_is_not_there_is_sent_elsewhere(lab: DispatchLab) -> None:
    node_id = await lab.running("db")
    for seen in (_pair(lab, 10_000), _pair(lab, 1, counter=2)):
        async with lab.talk(node_id, highest=seen) as talk:
            with pytest.raises(Unavailable):
                await talk.ended()
        assert talk.link.sent == []


async def test_agent_of_an_older_life_is_served(lab: DispatchLab) -> None:
    async with lab.talk(await lab.join("one"), highest=_pair(lab, 10_000, counter=0)) as talk:
        await talk.link.next(wire.Snapshot)


async def test_revision_without_a_change_of_ours_is_caught_up_with(
    lab: DispatchLab, stores: StoreLab
) -> None:
    """A duty that is taken moves the engine on and shows in no view by itself."""
    node_id = await lab.join("one")
    await stores.engine.campaign("some-duty", "m9", 5.0)
    seen = await stores.engine.barrier()
    assert lab.view.revision < seen
    async with lab.talk(node_id, highest=_pair(lab, seen)) as talk:
        snapshot = await talk.link.next(wire.Snapshot)
    assert snapshot.revision.number >= seen


# --- sessions side by side -----------------------------------------------------------------------


async def test_two_sessions_of_one_node_are_both_served(lab: DispatchLab) -> None:
    """A renewal opens the second before it closes the first."""
    node_id = await lab.running("db")
    async with lab.talk(node_id) as first:
        await first.link.next(wire.Snapshot)
        async with lab.talk(node_id) as second:
            await second.link.next(wire.Snapshot)
            assert lab.presence.connected() == 1
            await lab.rotate("db", b"second")
            for talk in (first, second):
                await talk.link.next(wire.Delta)
                assert talk.link.values()[-1] == b"second"
        assert lab.presence.connected() == 1
    assert lab.presence.connected() == 0


async def test_session_whose_opening_cannot_be_recorded_leaves_no_trace(lab: DispatchLab) -> None:
    node_id = await lab.join("one")
    await lab.store.close()
    async with lab.talk(node_id) as talk:
        with pytest.raises(Unavailable):
            await talk.ended()
    assert lab.presence.connected() == 0


async def test_signing_request_that_is_no_request_ends_nothing(lab: DispatchLab) -> None:
    async with lab.talk(await lab.join("one")) as talk:
        await talk.link.next(wire.Snapshot)
        talk.link.say(wire.SigningRequest(b"junk"))
        refusal = await talk.link.next(wire.Refusal)
        assert refusal.code == "invalid_request"
        await talk.heard()
