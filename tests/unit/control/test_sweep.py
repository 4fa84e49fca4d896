"""What has had its time."""

import asyncio
from datetime import timedelta

import pytest

from cluster.control.requests import REQUEST_TTL
from cluster.control.sweep import MAX_REQUESTS, STEPS_PER_WRITE, overdue
from cluster.pki import csr
from cluster.pki.join_token import JoinToken
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import NodeState, OperatorRole, RequestRecord, TokenRole
from cluster.store.steps import Create, Remove, Write
from cluster.store.view import Stored, View
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
    for _ in range(STEPS_PER_WRITE + 5):
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


def _request(number: int, expires_at: float) -> RequestRecord:
    return RequestRecord(
        id=f"r{number}", caller="c", digest="d", status=200, answer=b"{}", expires_at=expires_at
    )


async def test_a_sweep_goes_on_until_nothing_is_overdue(lab: ControlLab) -> None:
    count = 5 * STEPS_PER_WRITE + 7
    for start in range(0, count, 100):
        numbers = range(start, min(start + 100, count))
        steps = tuple(Create(_request(number, 0.0)) for number in numbers)
        await lab.store.commit(Write(steps))
    duty = lab.duty()
    await lab.settle(duty, rounds=1)
    lab.clock.advance(REQUEST_TTL)
    running = asyncio.create_task(duty.run())
    try:
        async with asyncio.timeout(30):
            while len(lab.view.requests):  # noqa: ASYNC110  # polled, as a person would
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert _overdue(lab) == 0


@pytest.mark.parametrize("jump", [timedelta(hours=2), timedelta(hours=-2)])
async def test_a_calendar_that_jumps_forgets_no_request(lab: ControlLab, jump: timedelta) -> None:
    """A resend would be carried out again: the age of an id is counted on the clock that never
    jumps, by the manager that holds the duty."""
    duty = lab.duty()
    lab.clock.jump(lab.clock.now() + jump)
    context = lab.context()
    first = await lab.secrets.create(context, "db", {}, SecretBytes(b"value"))
    lab.clock.jump(lab.clock.now() - jump)
    await lab.settle(duty, rounds=1)
    lab.clock.jump(lab.clock.now() + timedelta(hours=2))
    lab.clock.advance(REQUEST_TTL - timedelta(seconds=1))
    await lab.settle(duty, rounds=1)
    again = await lab.secrets.create(context, "db", {}, SecretBytes(b"value"))
    assert again.body == first.body
    lab.clock.advance(timedelta(minutes=1))
    await lab.settle(duty, rounds=1)
    assert len(lab.view.requests) == 0


def test_too_many_requests_lose_the_oldest() -> None:
    view = View(str.encode)
    for number in range(MAX_REQUESTS + 3):
        view.put(Stored(_request(number, 1_000.0 + number), 1, 1))
    steps = overdue(view, 0.0, 0.0)
    gone = {step.stored.record.id for step in steps if isinstance(step, Remove)}
    assert gone == {"r0", "r1", "r2"}
    assert len(steps) == 3
