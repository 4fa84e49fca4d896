"""Rotating the record key: a new epoch, and every record sealed again under it.

May be stopped anywhere and repeated: a repeated call goes on sealing, under one more epoch. Old
epochs are destroyed by `drop_epoch` once nothing lies under them. Source: docs/explanation/keys.md.
"""

from cluster.control.policy import Action, Resource, authorize
from cluster.control.requests import JSON, RequestContext, Requests
from cluster.protocol.errors import PermissionDenied
from cluster.store.sealed_store import reseal
from cluster.system import Entropy

_KEYRING = Resource("keyring")


class Keys:
    """What operators may do with the record key."""

    def __init__(self, requests: Requests, entropy: Entropy) -> None:
        self._requests = requests
        self._entropy = entropy

    async def rotate(self, context: RequestContext) -> dict[str, JSON]:
        """Start a new key epoch, seal every record under it, and return how many there were."""
        store = self._requests.store
        try:
            entry = authorize(
                context.principal, Action.KEY_ROTATE, _KEYRING, self._requests.clock.now()
            )
        except PermissionDenied:
            self._requests.note_refusal(context.principal, Action.KEY_ROTATE, _KEYRING)
            raise
        await store.replace_keyring(store.keyring.with_new_epoch(self._entropy), (entry,))
        resealed = 0
        async for done in reseal(store):
            resealed = done
        return {"epoch": store.keyring.current, "resealed": resealed}
