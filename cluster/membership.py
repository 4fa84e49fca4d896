"""Managers on their way in: admission, learner, voter.

Every step may be repeated: a joiner that lost an answer asks again. One join runs at a time (etcd
takes one learner), under a duty that all managers share. A joining manager gets the root key and
the engine CA's key by HPKE, to a key it made and stored before it asked, and for its pending join
only.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import msgspec
import structlog

from cluster.api.membership import ManagerJoinRequest
from cluster.control.managers import ManagerAddresses, Managers
from cluster.control.policy import Principal, Role
from cluster.engine.etcd import EtcdEngine
from cluster.pki.join_token import JoinToken
from cluster.protocol.errors import Conflict, PermissionDenied, WrongEngine
from cluster.protocol.ids import ManagerId
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.aead import hpke_seal
from cluster.seal.unlock import SealFileContents
from cluster.store.records import ManagerRecord, ManagerState
from cluster.store.sealed_store import SealedStore

log = structlog.get_logger(__name__)

JOIN_PURPOSE = "strongroom manager join 1"
MEMBERSHIP_DUTY = "membership"
"""The right to change the engine's members: joins and departures take turns."""
JOIN_TTL_S = 60.0
"""How long the right to change the membership outlives a manager that held it."""


class JoinSecrets(msgspec.Struct, frozen=True, array_like=True):
    """What a joining manager receives, sealed to its key."""

    root_key: bytes
    engine_ca_certificate: bytes
    engine_ca_key: bytes
    cluster_id: str

    def __repr__(self) -> str:
        return "JoinSecrets(<redacted>)"


@dataclass(frozen=True, slots=True)
class ManagerAdmission:
    """Admits managers on etcd."""

    store: SealedStore
    managers: Managers
    engine: EtcdEngine
    contents: SealFileContents

    async def admit(self, asked: ManagerJoinRequest, address: str) -> Mapping[str, object]:
        """Return the reply to a joining manager; the same one as long as its join is pending."""
        # Checked before the token is spent, and no secret: it is derived one way from a key of full
        # entropy.
        expected = self.store.cluster.unlock_verifier
        if not hmac.compare_digest(asked.unlock_verifier, expected):
            raise PermissionDenied(
                "the unlock key is not this cluster's; use the key of the other managers"
            )

        def sealed(hpke_key: bytes) -> bytes:
            secrets = JoinSecrets(
                self.contents.root_key.reveal(),
                self.contents.engine_ca_certificate,
                self.contents.engine_ca_key.reveal(),
                self.contents.cluster_id,
            )
            plaintext = SecretBytes(msgspec.msgpack.encode(secrets))
            return hpke_seal(hpke_key, JOIN_PURPOSE, hpke_key, plaintext)

        return await self.managers.join(
            JoinToken.parse(asked.token),
            asked.csr,
            asked.hpke_key,
            asked.name,
            ManagerAddresses(asked.api_address, asked.join_address, asked.peer_address),
            sealed,
            address,
        )

    async def add_learner(self, principal: Principal, *, fresh: bool) -> dict[str, object]:
        """Add the caller's member as a learner and return the members as `initial_cluster`.

        `fresh`: the caller has no data. A learner that had started is then added anew, and a voter
        cannot be: it would forget what it has acknowledged.
        """
        joiner = self._joiner(principal)
        leadership = await self.engine.campaign(
            MEMBERSHIP_DUTY, self.contents.manager_id, JOIN_TTL_S
        )
        try:
            await self.store.barrier()
            self._joiner(principal)  # it may have been removed while others had their turn
            for member in await self.engine.membership.members():
                if member.is_learner and member.peer_address != joiner.peer_address:
                    log.warning("engine.stale_learner_removed", name=member.name)
                    await self.engine.membership.remove_member(member.member_id)
            members = await self.engine.membership.members()
            own = next((m for m in members if m.peer_address == joiner.peer_address), None)
            if own is not None and own.name and fresh:
                if not own.is_learner:
                    raise Conflict(
                        "this manager's member is a voter and its data are gone; remove the "
                        "member, then join with a new token"
                    )
                await self.engine.membership.remove_member(own.member_id)
                own = None
            if own is None:
                members = await self.engine.membership.add_learner(joiner.peer_address)
        finally:
            await leadership.resign()
        names = self._names()
        return {
            "added": own is None,
            "initial_cluster": {
                names.get(member.peer_address, member.name): member.peer_address
                for member in members
            },
        }

    async def promote(self, principal: Principal) -> dict[str, object]:
        """Make the caller's member a voter and its record active; once more does no harm."""
        joiner = self._joiner(principal)
        for member in await self.engine.membership.members():
            if member.peer_address == joiner.peer_address:
                if member.is_learner:
                    await self.engine.membership.promote(member.member_id)
                await self.managers.activate(principal, ManagerId(joiner.id))
                return {"state": "active"}
        raise Conflict("this manager's member is not in the engine; run `strongroom join` again")

    def _joiner(self, principal: Principal) -> ManagerRecord:
        if principal.identity is None or principal.role not in {Role.JOINING_MANAGER, Role.MANAGER}:
            raise PermissionDenied
        stored = self.store.view.managers.get(principal.identity.subject)
        if stored is None or stored.record.state not in {ManagerState.PENDING, ManagerState.ACTIVE}:
            raise PermissionDenied
        return stored.record

    def _names(self) -> dict[str, str]:
        """Return peer address -> name; etcd knows the name of a member only once it has started."""
        return {
            stored.record.peer_address: stored.record.name
            for stored in self.store.view.managers.values()
        }


@dataclass(frozen=True, slots=True)
class NoAdmission:
    """SQLite is one manager's engine."""

    async def admit(self, asked: ManagerJoinRequest, address: str) -> NoReturn:  # noqa: ARG002  # the port's form
        """Refuse."""
        raise _sqlite_alone()

    async def add_learner(self, principal: Principal, *, fresh: bool) -> NoReturn:  # noqa: ARG002  # the port's form
        """Refuse."""
        raise _sqlite_alone()

    async def promote(self, principal: Principal) -> NoReturn:  # noqa: ARG002  # the port's form
        """Refuse."""
        raise _sqlite_alone()


def _sqlite_alone() -> WrongEngine:
    return WrongEngine(
        "this cluster runs on SQLite, which takes one manager; move it to etcd with "
        "`strongroom store migrate --to etcd` first"
    )
