"""Join tokens: made, listed, removed by operators, and spent by newcomers.

Only a digest of the secret is stored; the text is shown once. A newcomer whose token does not admit
it gets one answer for every reason. Source: DESIGN 5.
"""

import hmac
import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from cluster.control.issuing import trust_bundle
from cluster.control.moments import moment
from cluster.control.policy import Action, Principal, Resource
from cluster.control.requests import JSON, Answer, Decision, RequestContext, Requests
from cluster.pki.join_token import JoinToken
from cluster.protocol.errors import Conflict, InvalidRequest, NotFound, TokenRefused
from cluster.protocol.ids import check_name
from cluster.store.records import JoinTokenRecord, Kind, TokenRole
from cluster.store.steps import Create, Remove
from cluster.store.view import Stored, View
from cluster.system import Entropy

MAX_TTL: Final = {
    TokenRole.WORKER: timedelta(days=30),
    TokenRole.MANAGER: timedelta(hours=1),
    TokenRole.OPERATOR: timedelta(days=1),
}
"""A manager's token is as precious as the root key."""
MAX_USES: Final = {TokenRole.WORKER: 10_000, TokenRole.MANAGER: 1, TokenRole.OPERATOR: 1}
MAX_NETWORKS: Final = 16

_NO_DIGEST: Final = bytes(32)


class Tokens:
    """What operators may do with join tokens."""

    def __init__(
        self, requests: Requests, entropy: Entropy, *, admits_managers: bool = True
    ) -> None:
        """`admits_managers`: whether the engine can serve more than one manager."""
        self._requests = requests
        self._entropy = entropy
        self._admits_managers = admits_managers

    async def create(
        self,
        context: RequestContext,
        role: TokenRole,
        ttl: timedelta,
        *,
        uses: int = 1,
        name: str = "",
        networks: Sequence[str] = (),
    ) -> Answer:
        """Make a token for workers or managers. Its text is in this answer and nowhere else.

        Raises InvalidRequest, and Conflict for a manager's token where only one can be.
        `name`: the only name it admits; `networks`: CIDR networks a newcomer must come from.
        """
        if role is TokenRole.OPERATOR:
            raise InvalidRequest("an operator's token comes from `strongroom operator add`")
        if role is TokenRole.MANAGER and not self._admits_managers:
            raise Conflict(
                "the engine is sqlite, which serves one manager; run `strongroom store migrate "
                "--to etcd` on it first"
            )
        _check_limits(role, ttl, uses)
        checked = _check_networks(networks)
        if name:
            check_name(name)

        def decide(view: View) -> Decision:
            token, record = new_token(
                view,
                self._entropy,
                role=role,
                now=self._requests.clock.now(),
                ttl=ttl,
                uses=uses,
                name=name,
                created_by=context.principal.name,
            )
            record = msgspec.structs.replace(record, networks=checked)
            return Decision(
                [Create(record)], _shown(record), status=201, shown_once={"token": token.format()}
            )

        resource = Resource(Kind.JOIN_TOKEN.value, role.value)
        return await self._requests.run_once(context, Action.TOKEN_CREATE, resource, decide)

    async def remove(self, context: RequestContext, token_id: str) -> Answer:
        """Remove a token: it admits nobody any more. Raises NotFound."""

        def decide(view: View) -> Decision:
            stored = view.join_tokens.get(token_id)
            if stored is None:
                raise NotFound("there is no join token of that id; see `strongroom token ls`")
            return Decision([Remove(stored)], {"id": token_id})

        resource = Resource(Kind.JOIN_TOKEN.value, token_id[:64])
        return await self._requests.run_once(context, Action.TOKEN_REMOVE, resource, decide)

    def list(self, principal: Principal) -> list[dict[str, JSON]]:
        """Return every token that may still admit someone, never its secret."""
        self._requests.check(principal, Action.TOKEN_LIST, Resource(Kind.JOIN_TOKEN.value))
        now_s = self._requests.clock.now().timestamp()
        records = [stored.record for stored in self._requests.store.view.join_tokens.values()]
        live = (r for r in records if r.expires_at > now_s and r.uses_left > 0)
        return [_shown(record) for record in sorted(live, key=lambda r: (r.created_at, r.id))]


def new_token(
    view: View,
    entropy: Entropy,
    *,
    role: TokenRole,
    now: datetime,
    ttl: timedelta,
    uses: int,
    name: str,
    created_by: str,
) -> tuple[JoinToken, JoinTokenRecord]:
    """Return a fresh token and the record that admits it."""
    token = JoinToken.new(trust_bundle(view).root_digest(), entropy)
    record = JoinTokenRecord(
        id=token.token_id,
        role=role,
        digest=token.secret_digest(),
        expires_at=(now + ttl).timestamp(),
        uses_left=uses,
        name=name,
        created_at=now.timestamp(),
        created_by=created_by,
    )
    return token, record


def find_token(view: View, token: JoinToken, role: TokenRole) -> Stored[JoinTokenRecord]:
    """Return the record of a token whose secret is right, spent and expired ones included.

    Raises TokenRefused. An unknown id is compared too, so that it takes no less time.
    """
    stored = view.join_tokens.get(token.token_id)
    digest = stored.record.digest if stored is not None else _NO_DIGEST
    right = token.matches(digest)
    if stored is None or not right or stored.record.role is not role:
        raise TokenRefused
    if not hmac.compare_digest(token.root_digest, trust_bundle(view).root_digest()):
        raise TokenRefused
    return stored


def spend(token: JoinTokenRecord, now_s: float, name: str, address: str) -> JoinTokenRecord:
    """Return the token with one use fewer.

    Raises TokenRefused, which reads the same for every reason: a caller without a valid token
    learns nothing.
    """
    if (
        now_s >= token.expires_at
        or token.uses_left < 1
        or token.name not in {"", name}
        or not _comes_from(token.networks, address)
    ):
        raise TokenRefused
    return msgspec.structs.replace(token, uses_left=token.uses_left - 1)


def _comes_from(networks: Sequence[str], address: str) -> bool:
    if not networks:
        return True
    try:
        caller = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(caller, ipaddress.IPv6Address) and caller.ipv4_mapped is not None:
        caller = caller.ipv4_mapped
    return any(caller in ipaddress.ip_network(network) for network in networks)


def _check_limits(role: TokenRole, ttl: timedelta, uses: int) -> None:
    if not timedelta(0) < ttl <= MAX_TTL[role]:
        hours = MAX_TTL[role] / timedelta(hours=1)
        raise InvalidRequest(f"a {role.value} token lives at most {hours:g} hours")
    if not 1 <= uses <= MAX_USES[role]:
        raise InvalidRequest(f"a {role.value} token takes 1 to {MAX_USES[role]} uses")


def _check_networks(networks: Sequence[str]) -> tuple[str, ...]:
    if len(networks) > MAX_NETWORKS:
        raise InvalidRequest(f"a token takes at most {MAX_NETWORKS} networks")
    try:
        return tuple(str(ipaddress.ip_network(network)) for network in networks)
    except ValueError:
        raise InvalidRequest("networks are written like 10.1.0.0/16, without host bits") from None


def _shown(record: JoinTokenRecord) -> dict[str, JSON]:
    return {
        "id": record.id,
        "role": record.role.value,
        "name": record.name,
        "networks": list(record.networks),
        "uses_left": record.uses_left,
        "expires_at": moment(record.expires_at),
        "created_at": moment(record.created_at),
        "created_by": record.created_by,
    }
