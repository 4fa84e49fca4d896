"""What placement takes each node for: recorded state, whether its manager lives, and patience.

Theory: a status record says which manager held the node's session. That manager marks its nodes
down when they stay away; if the manager itself is gone, nobody does. So the holder of the placement
duty takes a node of a manager that is not alive for unknown, and for down after `PATIENCE_S`. A new
holder trusts no silence of before its time: for as long, a node that is down counts as unknown.
Unknown nodes keep their tasks and are given no new ones. Source: DESIGN 6.
"""

from collections.abc import Collection, Iterable
from typing import Final

from cluster.protocol.ids import ManagerId
from cluster.store.records import NodeState, NodeStatusRecord

PATIENCE_S: Final = 60.0


class NodeStates:
    """Remembers since when nodes are silent; one per time of holding the duty."""

    def __init__(self, started_s: float) -> None:
        """`started_s`: a monotonic count, as in `judge`."""
        self._started_s = started_s
        self._silent_since: dict[str, float] = {}

    def judge(
        self, statuses: Iterable[NodeStatusRecord], alive: Collection[ManagerId], now_s: float
    ) -> dict[str, NodeState]:
        """Return what to take each node for, by id. `alive`: the managers that answer."""
        judged = {}
        for status in statuses:
            judged[status.id] = self._one(status, status.manager_id in alive, now_s)
        self._silent_since = {i: s for i, s in self._silent_since.items() if i in judged}
        return judged

    def next_look_s(self, now_s: float) -> float | None:
        """Return in how many seconds a silent node's patience ends, or None."""
        ends = [max(since, self._started_s) + PATIENCE_S for since in self._silent_since.values()]
        waiting = [end - now_s for end in ends if end > now_s]
        return min(waiting, default=None)

    def _one(self, status: NodeStatusRecord, manager_alive: bool, now_s: float) -> NodeState:
        if status.state is NodeState.READY and manager_alive:
            self._silent_since.pop(status.id, None)
            return NodeState.READY
        if status.state is NodeState.DOWN:
            # It was recorded after patience of its own: only our start is waited for.
            self._silent_since[status.id] = self._started_s
        since = self._silent_since.setdefault(status.id, now_s)
        return NodeState.DOWN if now_s - since >= PATIENCE_S else NodeState.UNKNOWN
