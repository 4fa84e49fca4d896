"""Nodes and operators on their way in, and back in: who gets a certificate, and on what proof.

Three proofs: a join token (a newcomer), the present certificate (a renewal), the old key (a node
that was away until its certificate expired). Each spends its token, writes its record and remembers
its reply in one transaction, so a request that is repeated under the same key gets the same reply.
Source: DESIGN 5.
"""

import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from cluster.control.callers import anonymous
from cluster.control.issuing import (
    Issued,
    Issuer,
    Request,
    following,
    get_cluster,
    reply_to_newcomer,
    trust_bundle,
)
from cluster.control.policy import Action, Principal, Resource, Role
from cluster.control.requests import JSON, Decision, Requests
from cluster.control.secrets import check_name_free
from cluster.control.tokens import find_token, spend
from cluster.pki.csr import verify_return_request
from cluster.pki.join_token import JoinToken
from cluster.pki.old_leaf import OldLeaf
from cluster.pki.renewal import may_return
from cluster.protocol.errors import Evicted, InvalidRequest, PermissionDenied
from cluster.protocol.identity import Kind as IdentityKind
from cluster.protocol.identity import SpiffeId
from cluster.protocol.ids import NodeId, TokenId, check_name, format_id
from cluster.protocol.wire import Certificate
from cluster.store.records import (
    JoinTokenRecord,
    Kind,
    NameRecord,
    NodeRecord,
    PendingJoin,
    TokenRole,
    name_id,
)
from cluster.store.steps import Create, Replace, Step
from cluster.store.view import Stored, View
from cluster.system import Entropy

REPLY_KEPT: Final = timedelta(hours=1)
"""For how long a repeated join gets the reply of the first time."""

_NOT_BACK: Final = "this node cannot come back by its old key; join it again with a new token"


class Enrolment:
    """What newcomers, and nodes that come back, may ask for."""

    def __init__(self, requests: Requests, entropy: Entropy, issuer: Issuer) -> None:
        self._requests = requests
        self._entropy = entropy
        self._issuer = issuer

    async def join_node(
        self, token: JoinToken, csr: bytes, name: str, peer_ip: str
    ) -> Mapping[str, JSON]:
        """Admit a node by its token and return its reply.

        `name` may be empty where the token carries one. Raises TokenRefused for every fault of the
        token, AlreadyExists when the name is taken.
        """
        request = Request.of(csr)
        if name:
            check_name(name)

        def decide(view: View) -> Decision:
            admitted = find_token(view, token, TokenRole.WORKER)
            now = self._requests.clock.now()
            before = _joined_before(view, token.token_id, request, now)
            if before is not None:
                return Decision((), msgspec.json.decode(before, type=dict))
            node_name = name or admitted.record.name
            spent = spend(admitted.record, now.timestamp(), node_name, peer_ip)
            check_name(node_name)
            check_name_free(view, Kind.NODE, node_name)
            return self._new_node(view, request, node_name, now, (admitted, spent))

        resource = Resource(Kind.NODE.value, name)
        return await self._requests.admit(anonymous(peer_ip), Action.NODE_JOIN, resource, decide)

    async def renew_node(self, node_id: NodeId, csr: bytes) -> Certificate:
        """Return a node's next certificate; its session has proven who it is.

        Raises Evicted for a removed node.
        """
        request = Request.of(csr)
        issued: Issued | None = None

        def decide(view: View) -> Decision:
            nonlocal issued
            stored = view.nodes.get(node_id)
            if stored is None or stored.record.revoked_at is not None:
                raise Evicted
            issued = self._issuer.node(view, node_id, request)
            renewed = _with_certificate(stored.record, issued, request.digest)
            return Decision([Replace(stored, renewed)], {})

        identity = SpiffeId(self._trust_domain(), IdentityKind.NODE, node_id)
        principal = Principal(identity, str(identity), Role.NODE)
        resource = Resource(Kind.NODE.value, node_id, owner=node_id)
        await self._requests.admit(principal, Action.NODE_RENEW, resource, decide)
        if issued is None:
            raise InvalidRequest("the certificate was not issued; ask again")
        bundle = trust_bundle(self._requests.store.view)
        return Certificate(issued.chain, bundle.roots, bundle.control, bundle.workload)

    async def return_node(
        self, certificate: bytes, csr: bytes, signature: bytes, peer_ip: str
    ) -> Mapping[str, JSON]:
        """Give an expired node a new certificate on proof of its old key.

        `certificate`: its old leaf (DER); `signature`: the old key's over `csr`. The serial must be
        the newest or the one before, the node active, and the grace must run. Raises Evicted,
        PermissionDenied.
        """
        request = Request.of(csr)
        old = OldLeaf.parse(certificate)
        verify_return_request(old.public_key, csr, signature)

        def decide(view: View) -> Decision:
            if not old.signed_by(trust_bundle(view).control):
                raise PermissionDenied(_NOT_BACK)
            stored = _returning(view, old)
            self._check_grace(view, old)
            issued = self._issuer.node(view, stored.record.id, request)
            after = _with_certificate(stored.record, issued, request.digest, old.serial)
            reply = {"node_id": after.id, **reply_to_newcomer(view, issued.chain)}
            return Decision([Replace(stored, after)], reply)

        resource = Resource(Kind.NODE.value, old.identity.subject)
        return await self._requests.admit(anonymous(peer_ip), Action.NODE_RETURN, resource, decide)

    def _check_grace(self, view: View, old: OldLeaf) -> None:
        cluster = get_cluster(view)
        outages = [
            (datetime.fromtimestamp(o.started_at, UTC), datetime.fromtimestamp(o.ended_at, UTC))
            for o in cluster.outages
        ]
        grace = timedelta(seconds=cluster.return_grace_s)
        if not may_return(old.expired_at, outages, self._requests.clock.now(), grace):
            raise PermissionDenied(_NOT_BACK)

    def _new_node(
        self,
        view: View,
        request: Request,
        name: str,
        now: datetime,
        token: tuple[Stored[JoinTokenRecord], JoinTokenRecord],
    ) -> Decision:
        node_id = NodeId(format_id(self._entropy.token(16)))
        issued = self._issuer.node(view, node_id, request)
        reply = {"node_id": node_id, **reply_to_newcomer(view, issued.chain)}
        record = NodeRecord(
            id=node_id,
            name=name,
            created_at=now.timestamp(),
            serials=(issued.serial,),
            public_keys=(request.digest,),
            not_after=issued.not_after_s,
            join=pending_join(token[1], request, reply, now),
        )
        steps: list[Step] = [
            Create(record),
            Create(NameRecord(id=name_id(Kind.NODE, name), owner=node_id)),
            Replace(*token),
        ]
        return Decision(steps, reply)

    def _trust_domain(self) -> str:
        return get_cluster(self._requests.store.view).trust_domain


def pending_join(
    token: JoinTokenRecord, request: Request, reply: Mapping[str, JSON], now: datetime
) -> PendingJoin:
    """Return what lets a repeated join have the same reply."""
    return PendingJoin(
        token_id=TokenId(token.id),
        public_key_digest=request.digest,
        reply=msgspec.json.encode(reply),
        expires_at=(now + REPLY_KEPT).timestamp(),
    )


def same_join(join: PendingJoin | None, token_id: TokenId, request: Request, now: datetime) -> bool:
    """Return whether `request` repeats a join that was admitted by this token under this key."""
    return (
        join is not None
        and join.token_id == token_id
        and now.timestamp() < join.expires_at
        and hmac.compare_digest(join.public_key_digest, request.digest)
    )


def _joined_before(view: View, token_id: TokenId, request: Request, now: datetime) -> bytes | None:
    """Return the reply a repeated join had; the token's secret has been checked."""
    for stored in view.nodes.values():
        join = stored.record.join
        if join is not None and same_join(join, token_id, request, now):
            return None if stored.record.revoked_at is not None else join.reply
    return None


def _with_certificate(
    node: NodeRecord, issued: Issued, digest: str, presented: str | None = None
) -> NodeRecord:
    """Return the node with its next certificate.

    A request repeated under one key replaces the certificate its agent never received: the one it
    still uses stays valid. `presented`: the serial that stays; None means the newest.
    """
    repeated = len(node.public_keys) > 1 and node.public_keys[0] == digest
    kept = 1 if repeated else 0
    if presented is not None and presented in node.serials:
        kept = node.serials.index(presented)
    return msgspec.structs.replace(
        node,
        serials=following(node.serials[kept:], issued.serial),
        public_keys=following(node.public_keys[kept:], digest),
        not_after=issued.not_after_s,
        join=None,
    )


def _returning(view: View, old: OldLeaf) -> Stored[NodeRecord]:
    """Return the record of the node that shows a certificate still on record."""
    stored = view.nodes.get(old.identity.subject)
    if stored is None:
        raise PermissionDenied(_NOT_BACK)
    known = zip(stored.record.serials, stored.record.public_keys, strict=True)
    if (old.serial, old.key_digest) not in set(known):
        raise PermissionDenied(_NOT_BACK)
    if stored.record.revoked_at is not None:
        raise Evicted
    return stored
