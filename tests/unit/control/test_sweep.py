"""What has had its time."""

from datetime import timedelta

from cluster.control.sweep import STEPS_PER_WRITE, overdue
from cluster.pki import csr
from cluster.pki.join_token import JoinToken
from cluster.store.records import NodeState, OperatorRole, TokenRole
from tests.unit.control.lab import ControlLab


def _overdue(lab: ControlLab) -> int:
    return len(overdue(lab.view, lab.clock.now().timestamp(), 0.0))


async def test_nothing_is_swept_before_its_time(lab: ControlLab) -> None:
    await lab.join("n1")
    await lab.token()
    assert _overdue(lab) == 0


async def test_replies_to_joins_are_forgotten_and_their_makers_stay(lab: ControlLab) -> None:
    node_id = await lab.join("n1")
    answer = await lab.operators.add(lab.context(), "eve", OperatorRole.AUDITOR, {})
    token = JoinToken.parse(str(answer.body["token"]))
    await lab.operators.enrol(token, csr.make_csr(csr.new_key()), "127.0.0.1")
    lab.clock.advance(timedelta(hours=1, seconds=1))
    await lab.settle(lab.duty(), rounds=1)
    node, operator = lab.view.nodes.get(node_id), lab.view.operators.get("eve")
    assert node is not None
    assert operator is not None
    assert (node.record.join, operator.record.enrolment) == (None, None)
    assert node.record.serials
    assert operator.record.serials


async def test_states_of_what_is_gone_are_forgotten(lab: ControlLab) -> None:
    node_id = await lab.join("n1")
    await lab.service("web")
    duty = lab.duty()
    await lab.settle(duty)
    await lab.mounted("web", node_id, {})
    await lab.services.remove(lab.context(), "web")
    await lab.nodes.remove(lab.context(), "n1")
    lab.clock.advance(timedelta(days=30))
    for _ in range(2):
        await lab.settle(lab.duty(), rounds=1)
    assert (len(lab.view.task_statuses), len(lab.view.node_statuses)) == (0, 0)
    assert len(lab.view.nodes) == 0


async def test_a_sweep_fits_one_write_and_the_next_goes_on(lab: ControlLab) -> None:
    for _ in range(STEPS_PER_WRITE // 2 + 5):
        await lab.token()
    lab.clock.advance(timedelta(hours=2))
    assert _overdue(lab) == STEPS_PER_WRITE
    for _ in range(2):
        await lab.settle(lab.duty(), rounds=1)
    assert _overdue(lab) == 0


async def test_repeated_join_is_served_until_the_sweep(lab: ControlLab) -> None:
    token = await lab.token(TokenRole.WORKER, ttl=timedelta(minutes=1))
    request = csr.make_csr(csr.new_key())
    first = await lab.enrolment.join_node(token, request, "n1", "127.0.0.1")
    lab.clock.advance(timedelta(minutes=30))
    await lab.state(str(first["node_id"]), NodeState.READY)  # type: ignore[arg-type]  # a plain id
    await lab.settle(lab.duty(), rounds=1)
    assert await lab.enrolment.join_node(token, request, "n1", "127.0.0.1") == first
