"""The rules of the session core, one by one."""

import msgspec
import pytest

from agent import effects
from agent.session import RETRY_FAILED_S, Session
from agent.session_state import EVICTED_RETRY_S
from cluster.pki.node_envelope import EnvelopeSuite, Recipient
from cluster.protocol import wire
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.wire import RevisionPair, VersionKey
from cluster.system import SystemEntropy
from tests.simulation.naive_manager import NODE_ID, History, NaiveManager, service, value_of
from tests.simulation.world import FACTS, KEYS, World, expected

RED, BLUE = "id-red", "id-blue"


def new_session(highest: RevisionPair | None = None) -> Session:
    return Session(FACTS, highest, (), None, lambda: 0.5)


def revision(number: int, counter: int = 1, unique: str = "first") -> RevisionPair:
    return RevisionPair(counter, unique, number)


def welcome(lease_s: float = 60.0) -> wire.Welcome:
    return wire.Welcome(wire.FORMAT, "s", "m1", lease_s, ("m:1",), ("m:2",), EnvelopeSuite.X25519)


def opened(session: Session, link: int = 1) -> Session:
    session.on_connected(link, 0.0)
    session.on_message(link, welcome(), 0.0)
    return session


def kinds(todo: list[effects.Effect]) -> list[type]:
    return [type(effect) for effect in todo]


def values(*pairs: tuple[str, int]) -> wire.Values:
    recipient = Recipient.choose(KEYS.public_keys(), NODE_ID, "s")
    keys = [VersionKey(*pair) for pair in pairs]
    return recipient.seal([(key, SecretBytes(value_of(key))) for key in keys], SystemEntropy())


@pytest.fixture
def history() -> History:
    made = History()
    made.commit({RED: service("red", ("a", 1)), BLUE: service("blue", ("b", 1), uid=1001)})
    return made


@pytest.fixture
def world(history: History) -> World:
    made = World([NaiveManager("m1", history), NaiveManager("m2", history)])
    made.start()
    made.settle(2)
    return made


def commit(world: World, history: History, *services: wire.ServiceAssignment) -> None:
    history.commit({s.service_id: s for s in services})
    for manager in world.managers:
        manager.view = history.newest
    world.publish()


def test_revision_is_durable_before_it_is_applied() -> None:
    session = opened(new_session())
    todo = session.on_message(1, wire.Snapshot(revision(3), ()), 0.0)
    assert kinds(todo) == [effects.SaveHighest, effects.Apply]


def test_lost_removal_is_noticed_by_the_next_delta(world: World, history: History) -> None:
    (link,) = world.wires
    commit(world, history, service("red", ("a", 1)))
    while world.wires[link]:
        world.drop(link)
    commit(world, history, service("red", ("a", 2)))
    world.settle(1)
    assert world.mounts == expected(history)


def test_repeated_delta_is_ignored(world: World, history: History) -> None:
    (link,) = world.wires
    commit(world, history, service("red", ("a", 2)))
    world.deliver(link)
    world.deliver(link, keep=True)
    applied = len(world.applied)
    world.deliver(link)
    assert len(world.applied) == applied


@pytest.mark.threat("T-26")
def test_older_snapshot_ends_a_fresh_link() -> None:
    session = opened(new_session(revision(5)))
    todo = session.on_message(1, wire.Snapshot(revision(4), ()), 0.0)
    assert kinds(todo) == [effects.Close, effects.Reconnect]


@pytest.mark.threat("T-26")
@pytest.mark.parametrize("foreign", [revision(99, counter=1), revision(99, 2, "other")])
def test_other_life_of_the_store_is_reported_and_left(foreign: RevisionPair) -> None:
    session = opened(new_session(revision(5, 2, "ours")))
    todo = session.on_message(1, wire.Snapshot(foreign, ()), 0.0)
    assert kinds(todo) == [effects.Report, effects.Close, effects.Reconnect]
    assert session.highest == revision(5, 2, "ours")


@pytest.mark.threat("T-26")
def test_later_life_of_the_store_is_accepted_though_its_number_is_lower() -> None:
    session = opened(new_session(revision(5)))
    todo = session.on_message(1, wire.Snapshot(revision(1, 2, "restored"), ()), 0.0)
    assert effects.Apply in kinds(todo)


def test_missing_values_are_asked_for_once_and_then_elsewhere() -> None:
    session = opened(new_session())
    snapshot = wire.Snapshot(revision(1), (service("red", ("a", 1)),))
    (resync,) = session.on_message(1, snapshot, 0.0)
    assert resync == effects.Send(1, wire.Resync(()))
    again = session.on_message(1, snapshot, 0.0)
    assert kinds(again) == [effects.Close, effects.Reconnect]


def test_values_stay_sealed_and_are_dropped_once_they_rest_in_a_mount() -> None:
    session = opened(new_session())
    session.on_message(1, values(("a", 1)), 0.0)
    todo = session.on_message(1, wire.Snapshot(revision(1), (service("red", ("a", 1)),)), 0.0)
    (work,) = [effect for effect in todo if isinstance(effect, effects.Apply)]
    key = VersionKey("a", 1)
    assert value_of(key) not in repr(work).encode()
    with KEYS.opening() as open_value:
        assert open_value(work.values[key]).reveal() == value_of(key)
    session.on_applied(revision(1), (wire.ServiceResult(RED, (key,)),), (), 0.0)
    again = session.on_message(1, wire.Snapshot(revision(2), (service("red", ("a", 1)),)), 0.0)
    assert [dict(one.values) for one in again if isinstance(one, effects.Apply)] == [{}]


def test_value_that_does_not_open_is_asked_for_again() -> None:
    session = opened(new_session())
    session.on_message(1, values(("a", 1)), 0.0)
    session.on_message(1, wire.Snapshot(revision(1), (service("red", ("a", 1)),)), 0.0)
    failed = wire.ServiceResult(RED, (), "not sealed for this node")
    session.on_applied(revision(1), (failed,), (), 0.0, (VersionKey("a", 1),))
    again = session.on_tick(RETRY_FAILED_S)
    assert effects.Send(1, wire.Resync(())) in again


def test_manager_that_names_no_envelope_of_ours_is_left() -> None:
    session = new_session()
    session.on_connected(1, 0.0)
    for suite in ("", "mlkem768-x25519", "none"):
        other = msgspec.structs.replace(welcome(), suite=suite)
        assert kinds(session.on_message(1, other, 0.0)) == [effects.Close, effects.Reconnect]
        session.on_connected(1, 0.0)


def test_value_that_no_manifest_wants_is_dropped() -> None:
    session = opened(new_session())
    session.on_message(1, values(("a", 1), ("stray", 1)), 0.0)
    todo = session.on_message(1, wire.Snapshot(revision(1), (service("red", ("a", 1)),)), 0.0)
    (work,) = [effect for effect in todo if isinstance(effect, effects.Apply)]
    assert set(work.values) == {VersionKey("a", 1)}


def test_failed_service_is_acknowledged_with_its_error_and_tried_again(
    world: World, history: History
) -> None:
    world.broken_services.add("red")
    commit(world, history, service("red", ("a", 2)))
    world.settle(1)
    manager = world.managers[0]
    assert [r.error for r in manager.acks[-1].services] == ["broken"]
    world.broken_services.clear()
    world.settle(20)
    assert world.mounts == expected(history)
    assert [r.error for r in manager.acks[-1].services] == [""]


def test_lease_counts_from_sending_not_from_arrival() -> None:
    session = opened(new_session())
    file = service("red", ("a", 1), wipe=True).files[0]
    session.on_message(1, wire.Lease(1, 60.0), 50.0)
    assert session.may_serve(file, 59.0)
    assert not session.may_serve(file, 60.0)


def test_lease_that_was_never_asked_for_grants_nothing() -> None:
    session = opened(new_session())
    assert session.on_message(1, wire.Lease(77, 1e9), 0.0) == []
    file = service("red", ("a", 1), wipe=True).files[0]
    assert not session.may_serve(file, 1.0)


def test_files_that_do_not_ask_for_a_lease_are_kept_without_one(
    world: World, history: History
) -> None:
    for manager in world.managers:
        manager.grants_leases = False
    world.settle(300)
    assert world.mounts == expected(history)


def test_services_whose_files_went_before_are_left_alone_when_others_go() -> None:
    session = opened(new_session())
    red = service("red", ("a", 1), leases={"a": 30.0})
    blue = service("blue", ("b", 1), uid=1001, wipe=True)
    session.on_message(1, values(("a", 1), ("b", 1)), 0.0)
    session.on_message(1, wire.Lease(1, 60.0), 0.0)
    session.on_message(1, wire.Snapshot(revision(1), (red, blue)), 0.0)
    results = (
        wire.ServiceResult(RED, (VersionKey("a", 1),)),
        wire.ServiceResult(BLUE, (VersionKey("b", 1),)),
    )
    session.on_applied(revision(1), results, (), 0.0)

    def wiped(now_s: float) -> list[str]:
        done = [one for one in session.on_tick(now_s) if isinstance(one, effects.WipeLapsed)]
        return [one.name for effect in done for one in effect.services]

    assert [wiped(now_s) for now_s in (29.0, 30.0, 59.0, 60.0, 61.0)] == [
        [], ["red"], [], ["blue"], [],
    ]  # fmt: skip


def test_lease_is_asked_for_as_often_as_the_shortest_needs() -> None:
    session = opened(new_session())
    session.on_message(1, wire.Lease(1, 60.0), 0.0)

    def asked(now_s: float) -> bool:
        return effects.Send(1, wire.LeaseRequest(2)) in session.on_tick(now_s)

    session.on_message(1, wire.Snapshot(revision(1), ()), 0.0)
    assert not asked(10.0)  # every third of the node's minute
    session.on_message(1, values(("a", 1)), 10.0)
    short = service("red", ("a", 1), leases={"a": 30.0})
    session.on_message(1, wire.Delta(revision(1), revision(2), (short,), ()), 10.0)
    assert asked(10.0)


def test_wipe_comes_before_its_acknowledgement() -> None:
    session = opened(new_session())
    session.on_message(1, wire.Snapshot(revision(1), ()), 0.0)
    todo = session.on_message(1, wire.Wipe("evicted"), 0.0)
    assert kinds(todo) == [effects.WipeAll, effects.Send, effects.Close, effects.Reconnect]
    assert isinstance(todo[-1], effects.Reconnect)
    assert todo[-1].delay_s == EVICTED_RETRY_S


def test_first_retry_is_immediate_and_later_ones_stay_within_two_seconds() -> None:
    session = new_session()
    delays = []
    for _ in range(12):
        (todo,) = session.on_closed(None, 0.0)
        assert isinstance(todo, effects.Reconnect)
        delays.append(todo.delay_s)
    assert delays[0] == 0.0
    assert all(0.1 <= delay <= 2.0 for delay in delays[1:])


@pytest.mark.parametrize(
    "message",
    [values(("a", 1)), wire.Snapshot(revision(1), ()), wire.Lease(1, 60.0)],
    ids=lambda message: type(message).__name__,
)
def test_nothing_is_believed_before_the_welcome(message: wire.FromManager) -> None:
    session = new_session()
    session.on_connected(1, 0.0)
    assert kinds(session.on_message(1, message, 0.0)) == [effects.Close, effects.Reconnect]


def test_silent_manager_is_left() -> None:
    session = new_session()
    session.on_connected(1, 0.0)
    assert session.on_tick(14.0) == []
    assert kinds(session.on_tick(15.0)) == [effects.Close, effects.Reconnect]


def test_refused_renewal_keeps_the_session_and_waits() -> None:
    session = opened(new_session())
    session.on_message(1, wire.Snapshot(revision(1), ()), 0.0)
    session.on_renewal_due(b"request", 0.0)
    todo = session.on_message(1, wire.Refusal("no_quorum", "later"), 0.0)
    assert kinds(todo) == [effects.Report]
    assert session.is_renewing
    assert session.is_synced


def test_unasked_certificate_is_ignored() -> None:
    session = opened(new_session())
    assert session.on_message(1, wire.Certificate((b"x",), (), (), ()), 0.0) == []


def test_successor_takes_over_only_with_its_snapshot() -> None:
    session = opened(new_session())
    session.on_message(1, wire.Snapshot(revision(1), ()), 0.0)
    session.on_renewal_due(b"request", 0.0)
    todo = session.on_message(1, wire.Certificate((b"x",), (), (), ()), 0.0)
    assert kinds(todo) == [effects.StoreCertificate, effects.OpenSuccessor]
    opened(session, link=2)
    assert session.is_renewing
    done = session.on_message(2, wire.Snapshot(revision(1), ()), 0.0)
    assert effects.Close(1, "renewed") in done
    assert session.on_message(1, wire.Snapshot(revision(9), ()), 0.0) == []


def test_failed_successor_is_opened_again_while_the_first_link_serves() -> None:
    session = opened(new_session())
    session.on_message(1, wire.Snapshot(revision(1), ()), 0.0)
    session.on_renewal_due(b"request", 0.0)
    session.on_message(1, wire.Certificate((b"x",), (), (), ()), 0.0)
    assert session.on_closed(None, 0.0) == []
    assert effects.OpenSuccessor() in session.on_tick(2.0)


@pytest.mark.parametrize(
    "message",
    [
        wire.ServiceCertificate(RED, (b"leaf",), (b"anchor",), 60.0),
        wire.ServiceCertificateRefused(RED, "unavailable"),
    ],
)
def test_answer_about_a_services_certificate_is_handed_on(
    message: wire.ServiceCertificate | wire.ServiceCertificateRefused,
) -> None:
    """A refusal of it ends nothing; before the welcome it is a breach."""
    session = opened(new_session())
    assert session.on_message(1, message, 0.0) == [effects.TakeServiceCertificate(message)]
    early = new_session()
    early.on_connected(1, 0.0)
    assert kinds(early.on_message(1, message, 0.0)) == [effects.Close, effects.Reconnect]
