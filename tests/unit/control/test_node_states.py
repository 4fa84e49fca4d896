"""What placement takes each node for."""

from cluster.control.node_states import PATIENCE_S, NodeStates
from cluster.protocol.ids import ManagerId
from cluster.store.records import NodeState, NodeStatusRecord

HERE, THERE = ManagerId("m1"), ManagerId("m2")


def _status(state: NodeState, manager: ManagerId = HERE) -> NodeStatusRecord:
    return NodeStatusRecord(id="n", state=state, manager_id=manager, session_id="s", since=0.0)


def _judge(states: NodeStates, status: NodeStatusRecord, now_s: float) -> NodeState:
    return states.judge([status], {HERE}, now_s)["n"]


def test_ready_at_a_manager_that_lives_is_ready() -> None:
    assert _judge(NodeStates(0.0), _status(NodeState.READY), 1_000.0) is NodeState.READY


def test_node_of_a_dead_manager_is_unknown_then_down() -> None:
    states = NodeStates(0.0)
    lost = _status(NodeState.READY, THERE)
    assert _judge(states, lost, 100.0) is NodeState.UNKNOWN
    assert _judge(states, lost, 100.0 + PATIENCE_S - 1) is NodeState.UNKNOWN
    assert _judge(states, lost, 100.0 + PATIENCE_S) is NodeState.DOWN


def test_node_that_came_back_starts_anew() -> None:
    states = NodeStates(0.0)
    lost = _status(NodeState.READY, THERE)
    _judge(states, lost, 100.0)
    _judge(states, _status(NodeState.READY), 120.0)
    assert _judge(states, lost, 100.0 + PATIENCE_S) is NodeState.UNKNOWN


def test_new_holder_takes_recorded_silence_for_unknown_at_first() -> None:
    states = NodeStates(1_000.0)
    down = _status(NodeState.DOWN)
    assert _judge(states, down, 1_000.0) is NodeState.UNKNOWN
    assert states.next_look_s(1_010.0) == PATIENCE_S - 10
    assert _judge(states, down, 1_000.0 + PATIENCE_S) is NodeState.DOWN


def test_old_holder_believes_a_recorded_down_at_once() -> None:
    assert _judge(NodeStates(0.0), _status(NodeState.DOWN), PATIENCE_S + 1) is NodeState.DOWN


def test_nothing_silent_needs_no_second_look() -> None:
    states = NodeStates(0.0)
    _judge(states, _status(NodeState.READY), 5.0)
    assert states.next_look_s(5.0) is None


def test_down_recorded_while_waiting_is_believed_at_once() -> None:
    states = NodeStates(0.0)
    _judge(states, _status(NodeState.READY, THERE), 100.0)
    assert _judge(states, _status(NodeState.DOWN, THERE), 115.0) is NodeState.DOWN
