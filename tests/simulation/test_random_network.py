"""Long runs over a seeded network of three managers; SEED replays a failure, the trace shows it."""

import random

import pytest

from tests.simulation.naive_manager import History, NaiveManager, service
from tests.simulation.world import World, expected, heal

STEPS = 400


def _commit(draws: random.Random, history: History) -> None:
    made = {}
    for name in draws.sample(["red", "blue", "green"], draws.randrange(4)):
        files = [(s, draws.randrange(1, 5)) for s in draws.sample("abcd", draws.randrange(1, 4))]
        assigned = service(name, *files, wipe=draws.random() < 0.3)
        made[assigned.service_id] = assigned
    history.commit(made)


def _step(draws: random.Random, world: World, history: History) -> None:
    busy = [link for link, queue in world.wires.items() if queue]
    match draws.choices(
        ["deliver", "tick", "commit", "follow", "cut", "lose", "repeat", "restart", "renew"],
        [60, 10, 8, 15, 3, 2, 2, 1, 1],
    )[0]:
        case "deliver" if busy:
            world.deliver(draws.choice(busy))
        case "lose" if busy:
            world.drop(draws.choice(busy))
        case "repeat" if busy:
            world.deliver(draws.choice(busy), keep=True)
        case "tick":
            world.tick(draws.choice([0.1, 1.0, 10.0, 70.0]))
        case "commit":
            _commit(draws, history)
        case "follow":
            draws.choice(world.managers).view = history.newest
            world.publish()
        case "cut" if world.wires:
            world.cut(draws.choice(sorted(world.wires)))
        case "restart":
            world.restart()
        case "renew":
            world.run(world.session.on_renewal_due(b"request", world.now_s))
        case _:
            pass


@pytest.mark.parametrize("run", range(20))
def test_agent_converges_over_any_network(seed: int, run: int) -> None:
    draws = random.Random(f"{seed}/{run}")
    history = History()
    world = World([NaiveManager(f"m{n}", history) for n in range(3)], draws.random)
    world.start()
    for _ in range(STEPS):
        _step(draws, world, history)
    heal(world, history)

    story = "\n".join(world.trace[-60:])
    assert world.mounts == expected(history), story
    numbers = [revision.number for revision in world.applied]
    assert numbers == sorted(numbers), story
    assert len(world.wires) == 1, story
