"""Operators: added, enrolled by a one-time token, renewed, listed, removed.

An operator makes his own key; what he may do stands in his record and is read at every call.
`renew_as_root` on the admin socket is the way back for one whose certificate ran out.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec

from cluster.control.callers import LOCAL_ROOT, anonymous
from cluster.control.enrolment import pending_join, same_join
from cluster.control.issuing import (
    Issued,
    Issuer,
    Request,
    following,
    reply_to_newcomer,
)
from cluster.control.labels import check_labels
from cluster.control.moments import moment
from cluster.control.policy import Action, Principal, Resource
from cluster.control.requests import JSON, Answer, Decision, RequestContext, Requests
from cluster.control.secrets import check_name_free
from cluster.control.tokens import find_token, new_token, spend
from cluster.pki.join_token import JoinToken
from cluster.protocol.errors import InvalidRequest, NotFound, TokenRefused, Unauthenticated
from cluster.protocol.ids import check_name
from cluster.store.records import (
    JoinTokenRecord,
    Kind,
    NameRecord,
    OperatorRecord,
    OperatorRole,
    TokenRole,
    name_id,
)
from cluster.store.steps import Create, Remove, Replace, Step
from cluster.store.view import Stored, View
from cluster.system import Entropy

ENROLMENT_TTL: Final = timedelta(hours=1)


class Operators:
    """What is done with operators."""

    def __init__(self, requests: Requests, entropy: Entropy, issuer: Issuer) -> None:
        self._requests = requests
        self._entropy = entropy
        self._issuer = issuer

    async def add(
        self,
        context: RequestContext,
        name: str,
        role: OperatorRole,
        labels: Mapping[str, str],
        ttl: timedelta = ENROLMENT_TTL,
    ) -> Answer:
        """Add an operator and make the one-time token he enrols with, shown in this answer alone.

        `labels`: a deployer's scope, which he must have; other roles take none.
        """
        check_name(name)
        scope = check_labels(labels)
        _check_scope(role, scope)
        if not timedelta(0) < ttl <= timedelta(days=1):
            raise InvalidRequest("an operator's token lives at most 24 hours")

        def decide(view: View) -> Decision:
            check_name_free(view, Kind.OPERATOR, name)
            now = self._requests.clock.now()
            token, token_record = new_token(
                view,
                self._entropy,
                role=TokenRole.OPERATOR,
                now=now,
                ttl=ttl,
                uses=1,
                name=name,
                created_by=context.principal.name,
            )
            record = OperatorRecord(id=name, role=role, labels=scope, created_at=now.timestamp())
            # The record of a removed operator stays and is written over: ids are names here.
            before = view.operators.get(name)
            steps: list[Step] = [
                Create(record) if before is None else Replace(before, record),
                Create(NameRecord(id=name_id(Kind.OPERATOR, name), owner=name)),
                Create(token_record),
            ]
            answer = {**_shown(record), "token_expires_at": moment(token_record.expires_at)}
            return Decision(steps, answer, status=201, shown_once={"token": token.format()})

        resource = Resource(Kind.OPERATOR.value, name)
        return await self._requests.run_once(context, Action.OPERATOR_ADD, resource, decide)

    async def remove(self, context: RequestContext, name: str) -> Answer:
        """Remove an operator: his certificate is worth nothing at once. Raises NotFound."""

        def decide(view: View) -> Decision:
            stored = _get(view, name)
            now_s = self._requests.clock.now().timestamp()
            removed = msgspec.structs.replace(
                stored.record, removed_at=now_s, serials=(), enrolment=None
            )
            steps: list[Step] = [Replace(stored, removed), *_unspent_tokens(view, name)]
            claim = view.names.get(name_id(Kind.OPERATOR, name))
            if claim is not None:
                steps.append(Remove(claim))
            return Decision(steps, {"name": name})

        resource = Resource(Kind.OPERATOR.value, name[:64])
        return await self._requests.run_once(context, Action.OPERATOR_REMOVE, resource, decide)

    def list(self, principal: Principal) -> list[dict[str, JSON]]:
        """Return every operator that is not removed, by name."""
        self._requests.check(principal, Action.OPERATOR_LIST, Resource(Kind.OPERATOR.value))
        records = [stored.record for stored in self._requests.store.view.operators.values()]
        live = (record for record in records if record.removed_at is None)
        return [_shown(record) for record in sorted(live, key=lambda record: record.id)]

    async def enrol(self, token: JoinToken, csr: bytes, peer_ip: str) -> Mapping[str, JSON]:
        """Give an operator his first certificate for his one-time token. Raises TokenRefused."""
        request = Request.of(csr)

        def decide(view: View) -> Decision:
            admitted = find_token(view, token, TokenRole.OPERATOR)
            now = self._requests.clock.now()
            stored = view.operators.get(admitted.record.name)
            if stored is None or stored.record.removed_at is not None:
                raise TokenRefused
            before = stored.record.enrolment
            if before is not None and same_join(before, token.token_id, request, now):
                return Decision((), msgspec.json.decode(before.reply, type=dict))
            spent = spend(admitted.record, now.timestamp(), stored.record.id, peer_ip)
            return self._enrolled(view, stored, request, now, (admitted, spent))

        resource = Resource(Kind.OPERATOR.value)
        return await self._requests.admit(
            anonymous(peer_ip), Action.OPERATOR_ENROL, resource, decide
        )

    async def renew(self, principal: Principal, csr: bytes) -> Mapping[str, JSON]:
        """Give an operator his next certificate; the present one has proven who he is."""
        if principal.identity is None:
            raise Unauthenticated
        return await self._renew(principal, principal.identity.subject, csr)

    async def renew_as_root(self, name: str, csr: bytes) -> Mapping[str, JSON]:
        """Give an operator a certificate on the word of the admin socket. Raises NotFound."""
        return await self._renew(LOCAL_ROOT, check_name(name), csr)

    async def _renew(self, principal: Principal, name: str, csr: bytes) -> Mapping[str, JSON]:
        request = Request.of(csr)

        def decide(view: View) -> Decision:
            stored = _get(view, name)
            issued = self._issuer.operator(view, name, request)
            reply = _reply(view, stored.record, issued)
            return Decision([Replace(stored, _certified(stored.record, issued))], reply)

        resource = Resource(Kind.OPERATOR.value, name, owner=name)
        return await self._requests.admit(principal, Action.OPERATOR_RENEW, resource, decide)

    def _enrolled(
        self,
        view: View,
        stored: Stored[OperatorRecord],
        request: Request,
        now: datetime,
        token: tuple[Stored[JoinTokenRecord], JoinTokenRecord],
    ) -> Decision:
        issued = self._issuer.operator(view, stored.record.id, request)
        reply = _reply(view, stored.record, issued)
        after = msgspec.structs.replace(
            _certified(stored.record, issued),
            enrolment=pending_join(token[1], request, reply, now),
        )
        return Decision([Replace(stored, after), Replace(*token)], reply)


def _certified(operator: OperatorRecord, issued: Issued) -> OperatorRecord:
    return msgspec.structs.replace(
        operator,
        serials=following(operator.serials, issued.serial),
        not_after=issued.not_after_s,
        enrolment=None,
    )


def _check_scope(role: OperatorRole, scope: Mapping[str, str]) -> None:
    if role is OperatorRole.DEPLOYER and not scope:
        raise InvalidRequest(
            "a deployer takes at least one label as his scope; use --label KEY=VALUE"
        )
    if role is not OperatorRole.DEPLOYER and scope:
        raise InvalidRequest("only a deployer has a scope of labels")


def _get(view: View, name: str) -> Stored[OperatorRecord]:
    stored = view.operators.get(name)
    if stored is None or stored.record.removed_at is not None:
        raise NotFound(f"there is no operator {name[:64]!r}; see `strongroom operator ls`")
    return stored


def _unspent_tokens(view: View, name: str) -> list[Remove]:
    return [
        Remove(stored)
        for stored in view.join_tokens.values()
        if stored.record.role is TokenRole.OPERATOR and stored.record.name == name
    ]


def _reply(view: View, operator: OperatorRecord, issued: Issued) -> dict[str, JSON]:
    return {
        "name": operator.id,
        "role": operator.role.value,
        "expires_at": moment(issued.not_after_s),
        **reply_to_newcomer(view, issued.chain),
    }


def _shown(operator: OperatorRecord) -> dict[str, JSON]:
    return {
        "name": operator.id,
        "role": operator.role.value,
        "labels": operator.labels,
        "created_at": moment(operator.created_at),
        "enrolled": bool(operator.serials),
        "certificate_expires_at": moment(operator.not_after) if operator.not_after else None,
    }
