"""The port through which the API reaches the engine's membership; `cluster.membership` implements
it."""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from cluster.control.policy import Principal
from cluster.control.requests import Answer, RequestContext


class ManagerJoinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A manager asks to join; the reply's secrets are sealed to `hpke_key`."""

    token: str
    csr: bytes
    hpke_key: bytes
    unlock_verifier: bytes
    name: str
    api_address: str
    join_address: str
    peer_address: str

    def __repr__(self) -> str:
        return f"ManagerJoinRequest(name={self.name!r})"


class Departing(Protocol):
    """Managers on their way out."""

    async def remove(self, context: RequestContext, name: str) -> Answer:
        """Decide that a manager goes; its engine member is taken out afterwards."""
        ...


class Membership(Protocol):
    """Managers on their way in."""

    async def admit(self, asked: ManagerJoinRequest, address: str) -> Mapping[str, object]:
        """Return the reply to a joining manager; the same one as long as its join is pending."""
        ...

    async def add_learner(self, principal: Principal, *, fresh: bool) -> dict[str, object]:
        """Add the caller's engine member as a learner; return `initial_cluster` and `added`.

        `fresh`: it has no data, whatever the members remember of it.
        """
        ...

    async def promote(self, principal: Principal) -> dict[str, object]:
        """Make the caller's member a voter and its record active."""
        ...
