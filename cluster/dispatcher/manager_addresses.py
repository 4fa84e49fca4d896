"""Where managers listen, as agents are told: they must know where to go when theirs dies. Pure."""

from cluster.protocol.wire import Managers
from cluster.store.records import ManagerState
from cluster.store.view import View


def managers_of(view: View) -> Managers:
    """Return the addresses of every active manager."""
    records = [stored.record for stored in view.managers.values()]
    active = sorted((m for m in records if m.state is ManagerState.ACTIVE), key=lambda m: m.id)
    return Managers(
        tuple(manager.api_address for manager in active),
        tuple(manager.join_address for manager in active),
    )
