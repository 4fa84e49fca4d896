"""The past of records, read from either engine."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from cluster.protocol.errors import HistoryGone, InvariantViolation
from cluster.store.past import Past
from cluster.store.records import AuditEntry, Kind, Record
from cluster.store.sealed_store import Create, Remove, Replace, SealedStore, Write
from cluster.store.steps import Step
from tests.support.etcd_cluster import etcd_cluster
from tests.support.stores import StoreLab, initialised, node, secret, sqlite_lab, value

Told = list[tuple[str, str | None, str | None, str | None]]


@pytest.fixture(params=["sqlite", "etcd"])
async def lab(request: pytest.FixtureRequest, tmp_path: Path, seed: int) -> AsyncIterator[StoreLab]:
    async with AsyncExitStack() as stack:
        if request.param == "sqlite":
            yield await stack.enter_async_context(sqlite_lab(tmp_path, seed))
        else:
            (member,) = await stack.enter_async_context(etcd_cluster(tmp_path))
            lab = await initialised(member.engine, seed)
            yield lab
            await lab.close()


async def commit(store: SealedStore, action: str, *steps: Step) -> int:
    entry = AuditEntry(at=0.0, caller="ada", action=action, resource="r", allowed=True)
    return await store.commit(Write(steps, (entry,)))


async def life_of_a_node(store: SealedStore) -> list[int]:
    """Create, change and remove a node, and write what nobody follows; return the revisions."""
    revisions = [await commit(store, "create", Create(node("n1", name="old")))]
    stored = store.view.nodes.get("n1")
    assert stored is not None
    revisions.append(await commit(store, "change", Replace(stored, node("n1", name="new"))))
    await commit(store, "secret", Create(secret("s", 1)), Create(value("s", 1, b"v")))
    changed = store.view.nodes.get("n1")
    assert changed is not None
    revisions.append(await commit(store, "remove", Remove(changed)))
    return revisions


async def told(store: SealedStore, since: int | None) -> Told:
    """Return what happened to nodes up to now: id, names before and after, and the action."""
    up_to = await store.mark()
    past = Past(store, [Kind.NODE])
    await past.begin(since)
    found: Told = []
    async with aclosing(past.moments()) as moments:
        async for moment in moments:
            assert moment.revision > past.since
            found += [
                (one.change.id, _name(one.change.before), _name(one.change.after),
                 one.entry.action if one.entry else None)
                for one in moment.happened
            ]  # fmt: skip
            if moment.revision >= up_to:
                return found
    raise AssertionError("the past ended before the present")


def _name(record: Record | None) -> str | None:
    return None if record is None else str(getattr(record, "name", None))


async def test_every_state_is_told_with_the_one_before_and_who(lab: StoreLab) -> None:
    store = await lab.open()
    since = store.view.revision
    revisions = await life_of_a_node(store)
    whole: Told = [
        ("n1", None, "old", "create"),
        ("n1", "old", "new", "change"),
        ("n1", "new", None, "remove"),
    ]
    assert await told(store, since) == whole
    for at, revision in enumerate(revisions):
        assert await told(store, revision) == whole[at + 1 :]
    # All that is kept, from a manager that has just started.
    assert await told(await lab.open("m2", "b2"), None) == whole


async def test_history_that_was_compacted_is_refused(lab: StoreLab) -> None:
    store = await lab.open()
    since = store.view.revision
    revisions = await life_of_a_node(store)
    await store.mark()
    await lab.engine.compact(revisions[1])
    with pytest.raises(HistoryGone, match="ask from"):
        await told(store, since)
    assert await told(store, revisions[1]) == [("n1", "new", None, "remove")]
    assert ("n1", "new", None, "remove") in await told(store, None)


async def test_a_record_that_is_only_sealed_anew_has_not_changed(lab: StoreLab) -> None:
    store = await lab.open()
    await commit(store, "create", Create(node("n1", name="old")))
    since = store.view.revision
    stored = store.view.nodes.get("n1")
    assert stored is not None
    await commit(store, "same", Replace(stored, stored.record))
    assert await told(store, since) == []


async def test_values_have_no_past(lab: StoreLab) -> None:
    with pytest.raises(InvariantViolation):
        Past(await lab.open(), [Kind.SECRET_VALUE])
