"""The session core under any order, loss and duplication of messages."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.protocol.wire import ServiceAssignment
from tests.simulation.naive_manager import History, NaiveManager, service
from tests.simulation.world import World, expected, heal

SECRETS = ["a", "b", "c"]

Step = tuple[str, object]
State = dict[str, tuple[dict[str, int], dict[str, float | None] | None]]


def scripts(size: int, *, leased: bool = True) -> st.SearchStrategy[list[Step]]:
    """Scripts of up to `size` steps; without `leased` no file depends on the lease."""
    files = st.dictionaries(st.sampled_from(SECRETS), st.integers(1, 4), max_size=3)
    leases = st.sampled_from([None, {}, {"a": 30.0, "b": 90.0}, {"c": 600.0}])
    services = st.tuples(files, leases if leased else st.none())
    states = st.dictionaries(st.sampled_from(["red", "blue"]), services, max_size=2)
    steps = st.one_of(
        st.tuples(st.just("commit"), states),
        st.tuples(st.sampled_from(["deliver", "repeat", "drop"]), st.integers(0, 20)),
        st.tuples(st.sampled_from(["cut", "restart", "follow"]), st.integers(0, 20)),
        st.tuples(st.just("tick"), st.sampled_from([0.5, 5.0, 70.0])),
    )
    return st.lists(steps, max_size=size)


def assignments(state: State) -> dict[str, ServiceAssignment]:
    """Without leases a service's files are kept; else they are wiped, some by leases of theirs."""
    made = [
        service(name, *files.items(), wipe=leases is not None, leases=leases)
        for name, (files, leases) in state.items()
    ]
    return {s.service_id: s for s in made}


def play(world: World, history: History, script: list[Step]) -> None:
    for verb, argument in script:
        links = [link for link, queue in world.wires.items() if queue]
        match verb, argument:
            case "commit", dict():
                history.commit(assignments(argument))
                world.managers[0].view = history.newest
                world.publish()
            case "follow", int(n):
                world.managers[n % len(world.managers)].view = history.newest
                world.publish()
            case (("deliver" | "repeat" | "drop"), int(n)) if links:
                link = links[n % len(links)]
                index = n % len(world.wires[link])
                if verb == "drop":
                    world.drop(link, index)
                else:
                    world.deliver(link, index, keep=verb == "repeat")
            case "cut", int(n) if world.wires:
                world.cut(sorted(world.wires)[n % len(world.wires)])
            case "restart", _:
                world.restart()
            case "tick", float(seconds):
                world.tick(seconds)
                assert not world.overdue()
            case _:
                pass  # nothing is under way to do it to


@given(scripts(40))
def test_session_converges_and_never_goes_back(script: list[Step]) -> None:
    history = History()
    world = World([NaiveManager("m1", history), NaiveManager("m2", history)])
    world.start()
    play(world, history, script)

    heal(world, history)

    assert world.mounts == expected(history)
    numbers = [revision.number for revision in world.applied]
    assert numbers == sorted(numbers)
    assert world.session.is_synced


@given(scripts(30))
def test_files_under_a_lease_never_outlive_it(script: list[Step]) -> None:
    history = History()
    manager = NaiveManager("m1", history)
    world = World([manager])
    world.start()
    play(world, history, script)

    manager.view = history.newest
    world.settle(seconds=3.0)
    manager.grants_leases = False
    for seconds in (35.0, 35.0, 35.0, 600.0):
        world.tick(seconds)
        assert not world.overdue()
        world.settle(seconds=2.0)

    leased = {
        (i, f.target)
        for i, s in history.entries[-1].items()
        for f in s.files
        if f.wipe_on_lease_loss
    }
    kept = {(i, target) for i, files in world.mounts.items() for target in files}
    assert not leased & kept


@given(scripts(30, leased=False))
def test_another_life_of_the_store_is_refused(script: list[Step]) -> None:
    history = History(counter=5)
    world = World([NaiveManager("m1", history)])
    world.start()
    play(world, history, script)
    heal(world, history)
    held = {i: dict(files) for i, files in world.mounts.items()}

    for counter, unique in ((4, "first"), (5, "second")):
        stranger = History(counter=counter, unique=unique)
        stranger.commit(assignments({"red": ({"c": 9}, None)}))
        world.managers[0] = NaiveManager("evil", stranger)
        for link in list(world.wires):
            world.cut(link)
        world.settle(seconds=30.0)
        assert world.mounts == held
        assert "store_rolled_back" in world.reports
        world.reports.clear()


@given(scripts(20))
def test_a_later_life_of_the_store_is_accepted(script: list[Step]) -> None:
    history = History()
    world = World([NaiveManager("m1", history)])
    world.start()
    play(world, history, script)
    world.settle()

    restored = History(counter=2, unique="restored")
    restored.commit(assignments({"red": ({"a": 1}, None)}))
    world.managers[0] = NaiveManager("m1", restored)
    for link in list(world.wires):
        world.cut(link)
    world.settle()

    assert world.mounts == expected(restored)
