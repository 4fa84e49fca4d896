"""Secrets as an operator handles them: create, rotate, label, list, inspect, remove.

Values pass through on their way into sealed records and never come back: no answer has a field that
could hold one. Source: DESIGN 1 and 2.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

from cluster.control.labels import carries, changed_labels, check_labels
from cluster.control.new_primary import new_primary
from cluster.control.pages import WHOLE, Page, Paging, page_of
from cluster.control.policy import Action, Principal, Resource, in_reach
from cluster.control.requests import JSON, Answer, Decision, RequestContext, Requests
from cluster.control.retirement import made_room, value_removals
from cluster.control.rollout_policy import UNCHANGED, PolicyChange
from cluster.control.rotation_records import open_rotation, rotation_removals
from cluster.control.secret_shown import secret_shown
from cluster.control.version_terms import (
    NO_TERMS,
    VersionTerms,
    changed_terms,
    check_terms,
    expiry_of,
    overlap_of,
)
from cluster.control.versions import first_version, rotated
from cluster.protocol.errors import (
    AlreadyExists,
    InvalidRequest,
    PayloadTooLarge,
    SecretInUse,
    SecretNotFound,
)
from cluster.protocol.ids import SecretId, VersionNumber, check_name, format_id
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import (
    Kind,
    NameRecord,
    SecretRecord,
    SecretValueRecord,
    ServiceRecord,
    name_id,
    value_id,
)
from cluster.store.steps import Create, Remove, Replace, Step
from cluster.store.view import Stored, View
from cluster.system import Entropy

MAX_VALUE_BYTES: Final = 511_999


class Secrets:
    """What operators may do with secrets."""

    def __init__(self, requests: Requests, entropy: Entropy) -> None:
        self._requests = requests
        self._entropy = entropy

    async def create(
        self,
        context: RequestContext,
        name: str,
        labels: Mapping[str, str],
        value: SecretBytes,
        terms: VersionTerms = NO_TERMS,
    ) -> Answer:
        """Store a new secret with `value` as version 1. Raises AlreadyExists."""
        check_name(name)
        check_terms(terms)
        check_size(value)
        wanted = check_labels(labels)

        def decide(view: View) -> Decision:
            check_name_free(view, Kind.SECRET, name)
            secret_id = SecretId(self._id())
            now_s = self._now_s()
            by, request_id = context.principal.name, context.request_id
            version = first_version(len(value), now_s, by, request_id=request_id)
            record = SecretRecord(
                id=secret_id,
                name=name,
                labels=wanted,
                versions=(version,),
                next_number=2,
                created_at=now_s,
                updated_at=now_s,
            )
            if terms != NO_TERMS:
                record = changed_terms(record, terms, now_s)
            steps: list[Step] = [
                Create(record),
                Create(NameRecord(id=name_id(Kind.SECRET, name), owner=secret_id)),
                Create(value_record(secret_id, VersionNumber(1), value)),
            ]
            return Decision(steps, {"id": secret_id, "name": name, "version": 1}, status=201)

        resource = Resource(Kind.SECRET.value, name, wanted)
        return await self._requests.run_once(context, Action.SECRET_CREATE, resource, decide)

    async def rotate(
        self,
        context: RequestContext,
        name: str,
        value: SecretBytes,
        terms: VersionTerms = NO_TERMS,
        policy: PolicyChange = UNCHANGED,
    ) -> Answer:
        """Make `value` the primary version and start its rollout. Raises SecretNotFound.

        `terms`: overlap and expiry of this rotation alone; `policy`: how it alone goes out.
        """
        check_size(value)
        check_terms(terms)

        def decide(view: View) -> Decision:
            stored = get_secret(view, name)
            by = context.principal.name
            now_s = self._now_s()
            expires_at = expiry_of(terms, now_s)
            overlap_s = overlap_of(terms, stored.record.primary, expires_at, now_s)
            room = made_room(view, stored.record, now_s)
            after = rotated(
                room.record,
                len(value),
                now_s,
                by,
                overlap_s=overlap_s,
                expires_at=expires_at,
                request_id=context.request_id,
            )
            change = new_primary(view, stored, after, self._id(), by, policy)
            number = after.primary.number
            secret_id = SecretId(after.id)
            values: list[Step] = [
                Create(value_record(secret_id, number, value)),
                *value_removals(view, secret_id, room.destroyed),
            ]
            answer: dict[str, JSON] = {
                "name": name,
                "version": number,
                "rollout": change.rollout.id,
            }
            return Decision([*change.steps, *values], answer)

        return await self._requests.run_once(
            context, Action.SECRET_ROTATE, lambda view: [secret_resource(view, name)], decide
        )

    async def set_labels(
        self, context: RequestContext, name: str, add: Mapping[str, str], remove: Collection[str]
    ) -> Answer:
        """Change a secret's labels; a deployer's secret keeps the labels of his scope."""

        def resources(view: View) -> list[Resource]:
            before = secret_resource(view, name)
            after = changed_labels(before.labels, add, remove)
            return [before, Resource(Kind.SECRET.value, name, after)]

        def decide(view: View) -> Decision:
            stored = get_secret(view, name)
            labels = changed_labels(stored.record.labels, add, remove)
            after = msgspec.structs.replace(stored.record, labels=labels, updated_at=self._now_s())
            return Decision([Replace(stored, after)], {"name": name, "labels": labels})

        return await self._requests.run_once(context, Action.SECRET_LABEL, resources, decide)

    async def remove(self, context: RequestContext, name: str) -> Answer:
        """Remove a secret and its values.

        Raises SecretInUse, which names what holds it: a current spec, a previous one (its rollback
        would break), or a task of a removed service that still runs.
        """

        def decide(view: View) -> Decision:
            stored = get_secret(view, name)
            _check_unused(view, stored.record)
            secret_id = SecretId(stored.record.id)
            numbers = [version.number for version in stored.record.versions]
            steps: list[Step] = [Remove(stored), *value_removals(view, secret_id, numbers)]
            steps += rotation_removals(view, secret_id)
            claim = view.names.get(name_id(Kind.SECRET, name))
            if claim is not None:
                steps.append(Remove(claim))
            return Decision(steps, {"name": name})

        return await self._requests.run_once(
            context, Action.SECRET_REMOVE, lambda view: [secret_resource(view, name)], decide
        )

    def list(
        self,
        principal: Principal,
        paging: Paging = WHOLE,
        *,
        labels: Sequence[str] = (),
        prefix: str = "",
    ) -> Page:
        """Return the metadata of the secrets in the caller's reach, by name, or a page of it.

        `labels`: filters `KEY` or `KEY=VALUE`, all must hold; `prefix`: of the name. Raises
        InvalidRequest for a page that cannot be, or a whole list that is too long.
        """
        self._requests.check(principal, Action.SECRET_LIST, Resource(Kind.SECRET.value))
        view = self._requests.store.view
        return page_of(
            view.secrets,
            paging,
            prefix,
            lambda one: in_reach(principal, one.labels) and carries(one.labels, labels),
            lambda stored: secret_shown(view, stored.record),
        )

    def inspect(self, principal: Principal, name: str) -> dict[str, JSON]:
        """Return one secret's metadata. Raises SecretNotFound."""
        view = self._requests.store.view
        self._requests.check(principal, Action.SECRET_INSPECT, secret_resource(view, name))
        return secret_shown(view, get_secret(view, name).record)

    def _now_s(self) -> float:
        return self._requests.clock.now().timestamp()

    def _id(self) -> str:
        return format_id(self._entropy.token(16))


def get_secret(view: View, name: str) -> Stored[SecretRecord]:
    """Return the secret of exactly this name, or raise SecretNotFound."""
    stored = view.secret_by_name(name)
    if stored is None or stored.record.name != name:
        raise SecretNotFound(f"there is no secret {name!r}; see `strongroom secret ls`")
    return stored


def secret_resource(view: View, name: str) -> Resource:
    """Return what a policy judges; a secret that is not there has no labels."""
    stored = view.secret_by_name(check_name(name))
    found = stored is not None and stored.record.name == name
    labels = stored.record.labels if stored is not None and found else {}
    return Resource(Kind.SECRET.value, name, labels)


def check_name_free(view: View, kind: Kind, name: str) -> None:
    """Raise AlreadyExists if the name, in any case, is taken."""
    if view.names.get(name_id(kind, name)) is not None:
        raise AlreadyExists(
            f"there is a {kind.value} of the name {name!r} (case does not count); choose another"
        )


def check_size(value: SecretBytes) -> None:
    """Raise InvalidRequest or PayloadTooLarge for a value that is not 1 to 511,999 bytes."""
    if len(value) == 0:
        raise InvalidRequest("the value is empty; a value takes 1 to 511,999 bytes")
    if len(value) > MAX_VALUE_BYTES:
        raise PayloadTooLarge


def value_record(
    secret_id: SecretId, number: VersionNumber, value: SecretBytes
) -> SecretValueRecord:
    """Return the record of a value, for the store to seal."""
    return SecretValueRecord(id=value_id(secret_id, number), value=value.reveal())


def _check_unused(view: View, secret: SecretRecord) -> None:
    """Raise SecretInUse, naming what refers to the secret."""
    secret_id = SecretId(secret.id)
    users = users_of(view, secret_id)
    if open_rotation(view, secret_id) is not None:
        users.append(f"its own rotation (`strongroom secret rotate {secret.name} --give-up`)")
    if users:
        raise SecretInUse(
            f"secret {secret.name!r} is in use by {', '.join(users)}; update or remove these first"
        )


def users_of(view: View, secret_id: SecretId) -> list[str]:
    """Return what refers to a secret or config, in words: specs, previous specs, orphaned tasks."""
    users = [_use(service.record, secret_id) for service in view.services_referring_to(secret_id)]
    return users + _orphan_tasks(view, secret_id)


def _use(service: ServiceRecord, secret_id: SecretId) -> str:
    if any(reference.secret_id == secret_id for reference in service.spec.references):
        return f"service {service.name!r}"
    return f"the previous spec of service {service.name!r} (a rollback needs it)"


def _orphan_tasks(view: View, secret_id: SecretId) -> list[str]:
    """Return the tasks of removed services whose node may still hold the secret."""
    names = []
    for stored in view.tasks.values():
        task = stored.record
        if view.services.get(task.service_id) is not None:
            continue
        receipts = view.receipts_of_task(task.service_id, task.node_id)
        if any(r.record.secret_id == secret_id and r.record.dropped_at is None for r in receipts):
            node = view.nodes.get(task.node_id)
            names.append(f"a task on node {node.record.name if node else task.node_id!r}")
    return names
