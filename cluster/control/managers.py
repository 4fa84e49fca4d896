"""Managers on their way in: admitted by a single-use token, active once they caught up.

Owns the manager's record and certificate. The engine's membership and the keys a joiner is given
belong to the caller: they come in as a function that seals them to the joiner's own key. A repeated
join gets the same reply until it is complete or its hour is over; a manager that is active never
gets the keys again. Source: DESIGN 3, 4 and 5.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from cluster.control.callers import anonymous
from cluster.control.enrolment import pending_join, same_join
from cluster.control.issuing import (
    Issued,
    Issuer,
    Request,
    active_managers,
    following,
    reply_to_newcomer,
)
from cluster.control.moments import moment
from cluster.control.policy import Action, Principal, Resource
from cluster.control.requests import JSON, Decision, Requests
from cluster.control.secrets import check_name_free
from cluster.control.tokens import find_token, spend
from cluster.pki.join_token import JoinToken
from cluster.protocol.errors import AlreadyExists, InvalidRequest, NotFound, TokenRefused
from cluster.protocol.ids import ManagerId, TokenId, check_name, format_id
from cluster.store.records import (
    JoinTokenRecord,
    Kind,
    ManagerRecord,
    ManagerState,
    NameRecord,
    TokenRole,
    name_id,
)
from cluster.store.steps import Create, Replace, Step
from cluster.store.view import Stored, View
from cluster.system import Entropy

MAX_PORT: Final = 65535
_LEFT: Final = frozenset({ManagerState.REMOVING, ManagerState.REMOVED})

SealForJoiner = Callable[[bytes], bytes]
"""Takes the joiner's HPKE public key, returns what it needs, sealed to that key."""


@dataclass(frozen=True, slots=True)
class ManagerAddresses:
    """Where a manager listens, each host:port; `peer` is empty on SQLite."""

    api: str
    join: str
    peer: str = ""

    def check(self) -> None:
        """Raise InvalidRequest for anything that is not host:port."""
        for address in filter(None, (self.api, self.join, self.peer)):
            _host(address)
        if not (self.api and self.join):
            raise InvalidRequest("a manager has an address for agents and one for joining")

    def hosts(self) -> tuple[str, ...]:
        """Return the names and addresses its certificate is good for."""
        return tuple(dict.fromkeys((_host(self.api), _host(self.join))))


class Managers:
    """What is done with managers."""

    def __init__(self, requests: Requests, entropy: Entropy, issuer: Issuer) -> None:
        self._requests = requests
        self._entropy = entropy
        self._issuer = issuer

    async def join(
        self,
        token: JoinToken,
        csr: bytes,
        hpke_public_key: bytes,
        name: str,
        addresses: ManagerAddresses,
        seal: SealForJoiner,
        peer_ip: str,
    ) -> Mapping[str, JSON]:
        """Admit a manager, pending, and return its reply with `sealed`, the keys sealed to it.

        Raises TokenRefused for every fault of the token, AlreadyExists when the name is taken.
        """
        request = Request.of(csr)
        check_name(name)
        addresses.check()

        def decide(view: View) -> Decision:
            admitted = find_token(view, token, TokenRole.MANAGER)
            now = self._requests.clock.now()
            before = _joined_before(view, token.token_id, request, now)
            if before is not None:
                return Decision((), msgspec.json.decode(before, type=dict))
            spent = spend(admitted.record, now.timestamp(), name, peer_ip)
            check_name_free(view, Kind.MANAGER, name)
            _check_address_free(view, addresses.peer)
            sealed = seal(hpke_public_key)
            return self._pending(view, request, name, addresses, sealed, (admitted, spent))

        resource = Resource(Kind.MANAGER.value, name)
        return await self._requests.admit(anonymous(peer_ip), Action.MANAGER_JOIN, resource, decide)

    async def activate(self, principal: Principal, manager_id: ManagerId) -> Mapping[str, JSON]:
        """Make a pending manager active: it caught up, and forgets the reply of its join."""

        def decide(view: View) -> Decision:
            stored = _get(view, manager_id)
            if stored.record.state is ManagerState.ACTIVE:
                return Decision((), {"manager_id": manager_id})
            active = msgspec.structs.replace(stored.record, state=ManagerState.ACTIVE, pending=None)
            return Decision([Replace(stored, active)], {"manager_id": manager_id})

        resource = Resource(Kind.MANAGER.value, manager_id, owner=manager_id)
        return await self._requests.admit(principal, Action.MANAGER_ACTIVATE, resource, decide)

    async def renew(self, principal: Principal, manager_id: ManagerId, csr: bytes) -> Issued:
        """Return a manager's next certificate, for the addresses on its record."""
        request = Request.of(csr)
        issued: Issued | None = None

        def decide(view: View) -> Decision:
            nonlocal issued
            stored = _get(view, manager_id)
            record = stored.record
            hosts = ManagerAddresses(record.api_address, record.join_address).hosts()
            issued = self._issuer.manager(view, manager_id, request, hosts)
            serials = following(record.serials, issued.serial)
            return Decision([Replace(stored, msgspec.structs.replace(record, serials=serials))], {})

        resource = Resource(Kind.MANAGER.value, manager_id, owner=manager_id)
        await self._requests.admit(principal, Action.MANAGER_RENEW, resource, decide)
        if issued is None:
            raise InvalidRequest("the certificate was not issued; ask again")
        return issued

    def list(self, principal: Principal) -> list[dict[str, JSON]]:
        """Return every manager that is not removed, by name."""
        self._requests.check(principal, Action.MANAGER_LIST, Resource(Kind.MANAGER.value))
        records = [stored.record for stored in self._requests.store.view.managers.values()]
        live = (record for record in records if record.state is not ManagerState.REMOVED)
        return [_shown(record) for record in sorted(live, key=lambda record: record.name)]

    def _pending(
        self,
        view: View,
        request: Request,
        name: str,
        addresses: ManagerAddresses,
        sealed: bytes,
        token: tuple[Stored[JoinTokenRecord], JoinTokenRecord],
    ) -> Decision:
        manager_id = ManagerId(format_id(self._entropy.token(16)))
        now = self._requests.clock.now()
        issued = self._issuer.manager(view, manager_id, request, addresses.hosts())
        reply: dict[str, JSON] = {
            "manager_id": manager_id,
            "sealed": base64.b64encode(sealed).decode(),
            "peers": [manager.peer_address for manager in active_managers(view)],
            **reply_to_newcomer(view, issued.chain),
        }
        record = ManagerRecord(
            id=manager_id,
            name=name,
            state=ManagerState.PENDING,
            api_address=addresses.api,
            join_address=addresses.join,
            peer_address=addresses.peer,
            joined_at=now.timestamp(),
            serials=(issued.serial,),
            pending=pending_join(token[1], request, reply, now),
        )
        steps: list[Step] = [
            Create(record),
            Create(NameRecord(id=name_id(Kind.MANAGER, name), owner=manager_id)),
            Replace(*token),
        ]
        return Decision(steps, reply)


def _joined_before(view: View, token_id: TokenId, request: Request, now: datetime) -> bytes | None:
    """Return the reply a repeated join had. Raises TokenRefused once that manager is active."""
    for stored in view.managers.values():
        pending = stored.record.pending
        if pending is not None and same_join(pending, token_id, request, now):
            if stored.record.state is not ManagerState.PENDING:
                raise TokenRefused
            return pending.reply
    return None


def _get(view: View, manager_id: str) -> Stored[ManagerRecord]:
    stored = view.managers.get(manager_id)
    if stored is None or stored.record.state in _LEFT:
        raise NotFound("there is no such manager; see `strongroom manager ls`")
    return stored


def _check_address_free(view: View, peer_address: str) -> None:
    """Raise AlreadyExists where the engine has, or had, a member of another manager."""
    for stored in view.managers.values():
        record = stored.record
        taken = record.state in {ManagerState.ACTIVE, ManagerState.REMOVING}
        if taken and peer_address and record.peer_address == peer_address:
            raise AlreadyExists(
                f"manager {record.name} is on record at {peer_address}; if it is lost, run "
                f"`strongroom manager rm {record.name}` first"
            )


def _host(address: str) -> str:
    """Return the host of host:port; IPv6 addresses stand in brackets."""
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) <= MAX_PORT):
        raise InvalidRequest(f"an address is written host:port, unlike {address[:64]!r}")
    return host.removeprefix("[").removesuffix("]")


def _shown(manager: ManagerRecord) -> dict[str, JSON]:
    return {
        "id": manager.id,
        "name": manager.name,
        "state": manager.state.value,
        "api_address": manager.api_address,
        "join_address": manager.join_address,
        "peer_address": manager.peer_address,
        "joined_at": moment(manager.joined_at),
    }
