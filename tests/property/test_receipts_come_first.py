"""No delivered version is ever without a receipt, wherever the manager that delivers it dies.

First every single step of a story, one after another; then random stories with random deaths.
"""

import asyncio
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.control.delivered import held_versions, is_live, version_of
from cluster.control.exposure import node_exposure
from cluster.protocol.errors import ClusterError
from cluster.protocol.ids import NodeId, SecretId, VersionNumber
from cluster.store.records import Availability
from tests.property.mortal_manager import NODES, SECRETS, Fuse, World

Doing = Callable[[World], Coroutine[None, None, object]]


async def rotate(world: World, name: str) -> None:
    await world.lab.rotate(name, b"another")


async def move(world: World, name: str, to: Availability) -> None:
    """Drain a node or take it back; what an evicted one is told is an error."""
    try:
        await world.lab.nodes.update(
            world.lab.context(), name, add_labels={}, remove_labels=(), availability=to
        )
    except ClusterError:
        return
    await world.lab.settle(world.lab.duty())


async def evict(world: World, name: str) -> None:
    await world.lab.evictions.evict(world.lab.context(), name, rotate=True)


def doings() -> dict[str, Doing]:
    """Return everything that may happen, by name."""
    doings: dict[str, Doing] = {}
    for name in SECRETS:
        doings[f"rotate {name}"] = partial(rotate, name=name)
    for name in NODES:
        doings[f"deliver {name}"] = partial(World.deliver, name=name)
        doings[f"issue {name}"] = partial(World.issue, name=name)
        doings[f"drain {name}"] = partial(move, name=name, to=Availability.DRAIN)
        doings[f"take {name}"] = partial(move, name=name, to=Availability.ACTIVE)
        doings[f"evict {name}"] = partial(evict, name=name)
    return doings


DOINGS = doings()


def check(world: World) -> None:
    """Compare what left a manager with what the records of the living one say."""
    view = world.lab.view
    for node_id, secret_id, version in world.delivered:
        held = held_versions(view, NodeId(node_id))
        assert version in held.get(SecretId(secret_id), ()), (node_id, secret_id, version)
        rows = node_exposure(view, NodeId(node_id))["receipts"]
        assert isinstance(rows, list)
        assert any((row["secret_id"], row["version"]) == (secret_id, version) for row in rows)


def check_marks(world: World, evicted: Sequence[str]) -> None:
    """Every live version that left for an evicted node is marked."""
    ids = {world.node_id(name) for name in evicted}
    for node_id, secret_id, version in world.delivered:
        stored = world.lab.view.secrets.get(SecretId(secret_id))
        assert stored is not None
        number = VersionNumber(version)
        if node_id in ids and is_live(stored.record, number):
            found = version_of(stored.record, number)
            assert found is not None
            assert found.exposed_at is not None


async def tell(world: World, story: Sequence[str], deaths: Sequence[int | None]) -> int:
    """Play a story; the manager of life i dies at step `deaths[i]` and what it was doing is done
    again. Return how many steps the last life took."""
    left = list(deaths)
    await world.live(Fuse(left.pop(0)) if left else None)
    for doing in story:
        while not await world.attempt(DOINGS[doing](world)):
            await world.live(Fuse(left.pop(0)) if left else None)
            check(world)
        check(world)
    return len(world.fuse.steps)


STORY = (
    "deliver n1",
    "rotate db",
    "deliver n1",
    "issue n2",
    "drain n1",
    "take n1",
    "deliver n1",
    "evict n1",
)


@pytest.mark.threat("T-34")
async def test_death_at_every_step_of_a_story(tmp_path: Path, seed: int) -> None:
    template = await World.found(tmp_path / "template.db", seed)
    clean = template.copied(tmp_path / "clean.db")
    steps = await tell(clean, STORY, ())
    names = list(clean.fuse.steps)
    assert {"transact", "answer", "barrier", "Values", "Snapshot"} <= set(names)
    assert len(clean.delivered) >= 4, "values did leave the manager"
    await clean.die()
    for at in range(steps):
        world = template.copied(tmp_path / "world.db")
        await tell(world, STORY, (at,))
        assert world.lives == 2, names[at]
        check_marks(world, ["n1"])
        await world.die()


STORIES = st.lists(st.sampled_from(sorted(DOINGS)), min_size=3, max_size=10)
DEATHS = st.lists(st.integers(0, 40), max_size=4)


@dataclass
class Template:
    """A world to copy, founded once for all examples."""

    world: World
    directory: Path


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    directory = tmp_path_factory.mktemp("worlds")
    return Template(asyncio.run(World.found(directory / "template.db", 7)), directory)


@pytest.mark.threat("T-34")
@settings(max_examples=8)
@given(story=STORIES, deaths=DEATHS)
def test_random_stories_with_random_deaths(
    template: Template, story: list[str], deaths: list[int]
) -> None:
    async def play() -> None:
        with tempfile.TemporaryDirectory() as directory:
            world = template.world.copied(Path(directory) / "world.db")
            await tell(world, story, deaths)
            check_marks(world, [doing.split()[1] for doing in story if "evict" in doing])
            await world.die()

    asyncio.run(play())
