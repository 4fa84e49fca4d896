"""Small stories, each ending in a trace that a reader can follow."""

from collections.abc import Callable

from tests.simulation.naive_manager import History, NaiveManager, service
from tests.simulation.world import World

RED = "id-red"


def _world(*, wipe: bool = False) -> tuple[World, History]:
    history = History()
    history.commit({RED: service("red", ("db", 1), ("api", 1), wipe=wipe)})
    managers = [NaiveManager("m1", history), NaiveManager("m2", history)]
    world = World(managers)
    world.start()
    world.settle(1)
    return world, history


def _commit(world: World, history: History, *files: tuple[str, int], wipe: bool = False) -> None:
    history.commit({RED: service("red", *files, wipe=wipe)})
    for manager in world.managers:
        manager.view = history.newest


def rotation() -> World:
    """A secret is rotated: one value travels, the other stays."""
    world, history = _world()
    _commit(world, history, ("db", 2), ("api", 1))
    world.settle(1)
    return world


def lost_delta() -> World:
    """A delta is lost: the next one shows the gap, and a snapshot closes it."""
    world, history = _world()
    link = next(iter(world.wires))
    _commit(world, history, ("db", 2), ("api", 1))
    world.publish()
    world.drop(link)
    world.drop(link)
    _commit(world, history, ("db", 2), ("api", 2))
    world.settle(1)
    return world


def manager_dies() -> World:
    """The manager dies: the agent is with the next one at once, and says what it holds."""
    world, _ = _world()
    world.cut(next(iter(world.wires)))
    world.settle(2)
    return world


def lagging_manager() -> World:
    """The next manager is behind: it is left for another, and nothing goes back."""
    world, history = _world()
    _commit(world, history, ("db", 2), ("api", 1))
    world.settle(1)
    world.managers[1].view = 1
    world.cut(next(iter(world.wires)))
    world.settle(3)
    return world


def lease_lost_and_regained() -> World:
    """A manager without a quorum: files that demand it are wiped, and come back with the lease."""
    world, _ = _world(wipe=True)
    for manager in world.managers:
        manager.grants_leases = False
    world.tick(20)
    world.tick(45)
    for manager in world.managers:
        manager.grants_leases = True
    world.settle(3)
    return world


def leases_of_their_own() -> World:
    """Without a lease each file goes in its own time, `api` never; a restart changes nothing."""
    history = History()
    files = [("short", 1), ("node", 1), ("long", 1)]
    leases = {"short": 30.0, "node": None, "long": 120.0}
    red = service("red", *files, wipe=True, leases=leases)
    history.commit({RED: red, "id-api": service("api", ("api", 1), uid=1001)})
    world = World([NaiveManager("m1", history)])
    world.start()
    world.settle(1)
    world.managers[0].grants_leases = False
    world.tick(28)
    world.tick(2)
    world.tick(28)
    world.restart()
    world.tick(2)
    world.tick(58)
    world.tick(2)
    world.managers[0].grants_leases = True
    world.settle(3)
    return world


def eviction() -> World:
    """An evicted node wipes, reports it, and comes back a minute later to be told the same."""
    world, _ = _world()
    for manager in world.managers:
        manager.evicted = True
    world.tick(20)
    world.settle(62)
    return world


def renewal() -> World:
    """A certificate is renewed: a second link takes over once it has delivered everything."""
    world, history = _world()
    world.run(world.session.on_renewal_due(b"request", world.now_s))
    world.deliver(1)
    _commit(world, history, ("db", 2), ("api", 1))
    world.settle(3)
    return world


SCENARIOS: dict[str, Callable[[], World]] = {
    scenario.__name__: scenario
    for scenario in (
        rotation,
        lost_delta,
        manager_dies,
        lagging_manager,
        lease_lost_and_regained,
        leases_of_their_own,
        eviction,
        renewal,
    )
}


def trace_of(name: str) -> str:
    """Return the trace file of a scenario."""
    scenario = SCENARIOS[name]
    return "\n".join([f"# {scenario.__doc__}", *scenario().trace, ""])
