"""One operator's write: authorised, decided, audited and answered exactly once.

Owns the frame that every write of `control` runs in: look the request id up, authorise against the
view, decide, and commit steps, audit entry and answer in one transaction. A resend learns the first
answer. Decisions are made again when the records they rest on changed. Source: DESIGN 3, 5 and 7.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, TypeAlias

import msgspec

from cluster.control.policy import Action, Principal, Resource, authorize, refusal
from cluster.control.refusals import Refusals
from cluster.protocol.errors import (
    InvalidRequest,
    InvariantViolation,
    PermissionDenied,
    RequestIdReused,
    Unauthenticated,
)
from cluster.protocol.identity import Kind as IdentityKind
from cluster.protocol.ids import is_id
from cluster.store.records import RequestRecord
from cluster.store.sealed_store import SealedStore
from cluster.store.steps import Create, Remove, Replace, Require, RequireAbsent, Step, Write
from cluster.store.view import View
from cluster.system import Clock

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
"""What an answer is made of; never a value."""

REQUEST_TTL: Final = timedelta(minutes=10)
"""How long an answer is kept; a client that gets none resends for a minute."""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Who asks, under which request id, and the digest of what was asked."""

    principal: Principal
    request_id: str
    """26 characters, drawn by the caller; a resend carries the same."""
    digest: str
    """Of method, path and body under the index key: a value's digest is never stored plain."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be written and what to answer."""

    steps: Sequence[Step]
    answer: Mapping[str, JSON]
    status: int = 200
    shown_once: Mapping[str, JSON] = field(default_factory=dict)
    """Added to the first answer only and never stored: the text of a token. A resend gets null."""

    def __repr__(self) -> str:
        return f"Decision(status={self.status})"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the caller is told."""

    status: int
    body: dict[str, JSON] = field(repr=False)


Decide: TypeAlias = Callable[[View], Decision]
Resources: TypeAlias = Callable[[View], Sequence[Resource]]
"""The resources an action touches, as the view has them; the first is the one the audit names."""


class Requests:
    """Runs operators' requests against the store."""

    def __init__(self, store: SealedStore, clock: Clock, refusals: Refusals) -> None:
        self.store = store
        self.clock = clock
        self.refusals = refusals

    def check(self, principal: Principal, action: Action, resource: Resource) -> None:
        """Authorise a read; a refusal is noted, an allowed read of metadata leaves no entry."""
        try:
            authorize(principal, action, resource, self.clock.now())
        except PermissionDenied:
            self.note_refusal(principal, action, resource)
            raise

    def note_refusal(
        self, principal: Principal, action: Action, resource: Resource, detail: str = ""
    ) -> None:
        """Put a denial on its way into the audit."""
        self.refusals.note(refusal(principal, action, resource, self.clock.now(), detail))

    async def run_once(
        self,
        context: RequestContext,
        action: Action,
        resource: Resource | Resources,
        decide: Decide,
    ) -> Answer:
        """Carry a request out once and return its answer, with the revision that holds it.

        `decide` is a pure function of the view and may be called several times. Raises what it
        raises, RequestIdReused, PermissionDenied and what the store raises.
        """
        if not is_id(context.request_id):
            raise InvalidRequest("a request id takes 26 characters of base32; draw a fresh one")
        resources = resource if callable(resource) else _always(resource)
        attempt = _Attempt(self, context, action, resources, decide)
        try:
            revision = await self.store.update(attempt.write)
        except PermissionDenied:
            self.note_refusal(context.principal, action, resources(self.store.view)[0])
            raise
        return attempt.answer(revision)

    async def admit(
        self, principal: Principal, action: Action, resource: Resource, decide: Decide
    ) -> Mapping[str, JSON]:
        """Carry out what needs no request id, because a retry is recognised by its key or token.

        A decision without steps writes nothing. Raises what `decide` and the store raise.
        """
        answer: Mapping[str, JSON] = {}

        def write(view: View) -> Write | None:
            nonlocal answer
            entry = authorize(principal, action, resource, self.clock.now())
            decision = decide(view)
            answer = decision.answer
            return Write(tuple(decision.steps), (entry,)) if decision.steps else None

        try:
            await self.store.update(write)
        except PermissionDenied:
            self.note_refusal(principal, action, resource)
            raise
        return answer


class _Attempt:
    """One request while it is being decided, possibly several times."""

    def __init__(
        self,
        requests: Requests,
        context: RequestContext,
        action: Action,
        resources: Resources,
        decide: Decide,
    ) -> None:
        self._requests = requests
        self._context = context
        self._action = action
        self._resources = resources
        self._decide = decide
        self._answer: Answer | None = None
        self._replayed_at: int | None = None

    def write(self, view: View) -> Write | None:
        """Return what to commit, or None when the request was answered before."""
        stored = view.requests.get(self._context.request_id)
        if stored is not None:
            self._answer = self._replay(stored.record)
            self._replayed_at = stored.mod_revision
            return None
        now = self._requests.clock.now()
        principal = self._context.principal
        entries = [
            authorize(principal, self._action, resource, now) for resource in self._resources(view)
        ]
        standing = _standing(principal, view)
        decision = self._decide(view)
        self._answer = Answer(decision.status, {**decision.answer, **decision.shown_once})
        expires_at = (now + REQUEST_TTL).timestamp()
        record = self._record(decision, expires_at)
        touched = {_target(step) for step in decision.steps}
        still = [step for step in standing if _target(step) not in touched]
        entry = msgspec.structs.replace(entries[0], request_id=self._context.request_id)
        return Write(steps=(*decision.steps, *still, Create(record)), audit=(entry,))

    def answer(self, revision: int) -> Answer:
        """Return the answer, now that it is committed: at `revision`, or by an earlier send."""
        if self._answer is None:
            raise InvariantViolation("a request was committed without a decision")
        number = revision if self._replayed_at is None else self._replayed_at
        self._answer.body["revision"] = str(self._requests.store.revision(number))
        return self._answer

    def _record(self, decision: Decision, expires_at: float) -> RequestRecord:
        hidden = dict.fromkeys(decision.shown_once)
        return RequestRecord(
            id=self._context.request_id,
            caller=self._context.principal.name,
            digest=self._context.digest,
            status=decision.status,
            answer=msgspec.json.encode({**decision.answer, **hidden}),
            expires_at=expires_at,
        )

    def _replay(self, record: RequestRecord) -> Answer:
        if (record.caller, record.digest) != (
            self._context.principal.name,
            self._context.digest,
        ):
            raise RequestIdReused
        return Answer(record.status, msgspec.json.decode(record.answer, type=dict))


def _standing(principal: Principal, view: View) -> list[Require]:
    """Return the condition that the operator still stands as he did: a manager whose view lags
    cannot write for one who was removed, or with rights that were taken away.
    """
    identity = principal.identity
    if identity is None or identity.kind is not IdentityKind.OPERATOR:
        return []
    stored = view.operators.get(identity.subject)
    if (
        stored is None
        or stored.record.removed_at is not None
        or stored.record.role.value != principal.role.value
        or stored.record.labels != principal.labels
    ):
        raise Unauthenticated
    return [Require(stored)]


def _target(step: Step) -> tuple[str, str]:
    match step:
        case Create(record):
            return record.kind.value, record.id
        case RequireAbsent(kind, record_id):
            return kind.value, record_id
        case Replace(stored) | Remove(stored) | Require(stored):
            return stored.record.kind.value, stored.record.id


def _always(resource: Resource) -> Resources:
    return lambda _view: (resource,)
