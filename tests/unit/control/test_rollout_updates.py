"""Updates of services that go out in groups: the spec before stays where it is needed."""

import pytest

from cluster.protocol.errors import SecretInUse
from cluster.store.records import RolloutState
from tests.unit.control.lab import drafted
from tests.unit.control.rollout_lab import CANARY, Fleet


async def test_an_update_keeps_the_spec_before_until_its_turn(fleet: Fleet) -> None:
    """What that spec refers to can neither be removed nor pinned away meanwhile."""
    await fleet.set_up()
    await fleet.lab.secret("next")
    service = fleet.lab.services
    update = drafted("app", "next", is_global=True, update=CANARY)
    await service.update(fleet.lab.context(), "app", update)
    # Once more, so that no spec of the service itself refers to `db`.
    update = drafted("app", "next", is_global=True, update=CANARY, gid=7)
    answer = await service.update(fleet.lab.context(), "app", update)
    await fleet.settle()
    specs = [fleet.lab.view.holds.spec(fleet.task(node)) for node in fleet.nodes]
    assert sorted(0 if held is None else held.number for held in specs) == [0, 1, 1]
    with pytest.raises(SecretInUse):
        await fleet.lab.secrets.remove(fleet.lab.context(), "db")
    rollout = str(answer.body["rollout"])
    await fleet.actions.rollback(fleet.lab.context(), rollout)
    stored = fleet.lab.view.service_by_name("app")
    assert stored is not None
    assert stored.record.spec_number == 4
    assert [one.source for one in stored.record.spec.references] == ["db"]
    await fleet.report()
    assert fleet.rollout(rollout).state is RolloutState.ROLLED_BACK


async def test_a_change_that_nodes_do_not_see_goes_to_all_at_once(fleet: Fleet) -> None:
    await fleet.set_up()
    draft = drafted("app", "db", is_global=True, update=CANARY, labels={"team": "red"})
    answer = await fleet.lab.services.update(fleet.lab.context(), "app", draft)
    assert fleet.rollout(str(answer.body["rollout"])).policy is None


async def test_the_uid_of_a_spec_that_is_held_stays_taken(fleet: Fleet) -> None:
    """Two services never share a uid on a node, also while one of them changes its own."""
    await fleet.set_up()
    draft = drafted("app", "db", is_global=True, update=CANARY, uid=2000)
    await fleet.lab.services.update(fleet.lab.context(), "app", draft)
    await fleet.lab.services.create(
        fleet.lab.context(), drafted("other", "db", is_global=True, uid=1000)
    )
    await fleet.settle()
    assert fleet.lab.placed("other") == set()
    for _ in range(5):
        await fleet.report()
    assert fleet.lab.placed("other") == {"n0", "n1", "n2"}
