"""Services as an operator handles them: create, update, roll back, remove, list, inspect, tasks.

A service refers to secrets, so each change that adds a claim on a version also writes the secret's
record: a removal or a rotation decided at the same time meets a conflict and decides again.
Source: DESIGN 6 and the trap of previous specs in DESIGN 8.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from cluster.control.labels import carries
from cluster.control.pages import WHOLE, Page, Paging, page_of
from cluster.control.policy import Action, Principal, Resource, in_reach
from cluster.control.requests import JSON, Answer, Decision, RequestContext, Requests
from cluster.control.rollout_policy import AT_ONCE, UNCHANGED, PolicyChange
from cluster.control.rollout_start import update_rollout
from cluster.control.rollouts import supersede
from cluster.control.secrets import check_name_free
from cluster.control.service_draft import ReferenceDraft, ServiceDraft, check_usable, spec_of
from cluster.control.service_shown import service_shown, tasks_shown, waiting
from cluster.control.task_history import ended_shown
from cluster.protocol.errors import (
    Conflict,
    InvalidReference,
    InvalidRequest,
    PermissionDenied,
    ServiceNotFound,
    StaleVersion,
)
from cluster.protocol.ids import ServiceId, check_service_name, format_id
from cluster.store.records import (
    Kind,
    NameRecord,
    RolloutRecord,
    ServiceRecord,
    ServiceSpec,
    VersionedRecord,
    name_id,
)
from cluster.store.steps import Create, Remove, Replace, Step
from cluster.store.view import Stored, View
from cluster.system import Entropy

TASKS_PER_WRITE: Final = 80
"""Tasks that go with their service at once; placement removes the rest, which nobody serves."""


class Services:
    """What operators may do with services."""

    def __init__(self, requests: Requests, entropy: Entropy) -> None:
        self._requests = requests
        self._entropy = entropy

    async def create(self, context: RequestContext, draft: ServiceDraft) -> Answer:
        """Store a new service; placement takes it up. Raises AlreadyExists, InvalidReference."""
        check_service_name(draft.name)
        principal = context.principal

        def decide(view: View) -> Decision:
            check_name_free(view, Kind.SERVICE, draft.name)
            spec = spec_of(draft, lambda named: _usable(view, principal, named))
            service_id = ServiceId(self._id())
            now_s = self._now_s()
            record = ServiceRecord(
                id=service_id,
                name=draft.name,
                spec=spec,
                created_at=now_s,
                updated_at=now_s,
                request_id=context.request_id,
            )
            rollout = update_rollout(view, None, record, self._id(), context.principal.name)
            steps: list[Step] = [
                Create(record),
                Create(NameRecord(id=name_id(Kind.SERVICE, draft.name), owner=service_id)),
                Create(rollout),
                *_claims(view, None, spec),
            ]
            return Decision(steps, _changed(record, rollout), status=201)

        resource = Resource(Kind.SERVICE.value, draft.name, draft.labels)
        return await self._requests.run_once(context, Action.SERVICE_CREATE, resource, decide)

    async def update(
        self,
        context: RequestContext,
        name: str,
        draft: ServiceDraft,
        expected_spec_number: int | None = None,
    ) -> Answer:
        """Give a service a new spec, keep the one before, and start a rollout.

        Raises StaleVersion when `expected_spec_number` is not the present one.
        """
        if draft.name != name:
            raise InvalidRequest("a service keeps its name; create another one instead")

        def resources(view: View) -> list[Resource]:
            before = service_resource(view, name)
            return [before, Resource(Kind.SERVICE.value, name, draft.labels)]

        def decide(view: View) -> Decision:
            stored = get_service(view, name)
            if expected_spec_number not in {None, stored.record.spec_number}:
                raise StaleVersion
            check_reach(view, context.principal, stored.record.spec)
            spec = spec_of(draft, lambda named: _usable(view, context.principal, named))
            return self._respecified(view, context, stored, spec)

        return await self._requests.run_once(context, Action.SERVICE_UPDATE, resources, decide)

    async def rollback(self, context: RequestContext, name: str) -> Answer:
        """Swap a service's spec with the previous one.

        Raises Conflict when there is none, InvalidReference when something it needs is gone.
        """

        def resources(view: View) -> list[Resource]:
            found = service_resource(view, name)
            stored = view.service_by_name(name)
            previous = stored.record.previous_spec if stored is not None else None
            labels = previous.labels if previous is not None else found.labels
            return [found, Resource(Kind.SERVICE.value, name, labels)]

        def decide(view: View) -> Decision:
            stored = get_service(view, name)
            previous = stored.record.previous_spec
            if previous is None:
                raise Conflict(f"service {name!r} has no previous spec; use `service update`")
            for spec in (stored.record.spec, previous):
                check_reach(view, context.principal, spec)
            for reference in previous.references:
                secret = view.source(reference.secret_id)
                check_usable(reference, secret.record if secret is not None else None)
            return self._respecified(view, context, stored, previous, AT_ONCE)

        return await self._requests.run_once(context, Action.SERVICE_ROLLBACK, resources, decide)

    async def remove(self, context: RequestContext, name: str) -> Answer:
        """Remove a service: its nodes drop its files. Raises ServiceNotFound."""

        def decide(view: View) -> Decision:
            stored = get_service(view, name)
            service_id = ServiceId(stored.record.id)
            tasks = view.tasks_of_service(service_id)[:TASKS_PER_WRITE]
            steps: list[Step] = [Remove(stored), *(Remove(task) for task in tasks)]
            claim = view.names.get(name_id(Kind.SERVICE, name))
            history = view.task_histories.get(service_id)
            steps.extend(Remove(found) for found in (claim, history) if found is not None)
            return Decision(steps, {"id": service_id, "name": name})

        return await self._requests.run_once(
            context, Action.SERVICE_REMOVE, lambda view: [service_resource(view, name)], decide
        )

    def tasks(self, principal: Principal, name: str) -> list[dict[str, JSON]]:
        """Return each task of a service with the versions desired and mounted (`service ps`)."""
        view = self._requests.store.view
        self._requests.check(principal, Action.SERVICE_TASKS, service_resource(view, name))
        return tasks_shown(view, get_service(view, name).record)

    def ended_tasks(self, principal: Principal, name: str) -> list[dict[str, JSON]]:
        """Return the tasks of a service that ended last, with the reason, the newest first."""
        view = self._requests.store.view
        self._requests.check(principal, Action.SERVICE_TASKS, service_resource(view, name))
        return ended_shown(view, ServiceId(get_service(view, name).record.id))

    def list(
        self,
        principal: Principal,
        paging: Paging = WHOLE,
        *,
        labels: Sequence[str] = (),
        prefix: str = "",
    ) -> Page:
        """Return the services in the caller's reach, by name; the rest as `Secrets.list`."""
        self._requests.check(principal, Action.SERVICE_LIST, Resource(Kind.SERVICE.value))
        view = self._requests.store.view
        return page_of(
            view.services,
            paging,
            prefix,
            lambda one: in_reach(principal, one.spec.labels) and carries(one.spec.labels, labels),
            lambda stored: service_shown(view, stored.record),
        )

    def inspect(self, principal: Principal, name: str) -> dict[str, JSON]:
        """Return one service, and why a task of it waits for a node. Raises ServiceNotFound."""
        view = self._requests.store.view
        self._requests.check(principal, Action.SERVICE_INSPECT, service_resource(view, name))
        service = get_service(view, name).record
        return {**service_shown(view, service), "waiting": waiting(view, service, self._now_s())}

    def _respecified(
        self,
        view: View,
        context: RequestContext,
        stored: Stored[ServiceRecord],
        spec: ServiceSpec,
        change: PolicyChange = UNCHANGED,
    ) -> Decision:
        before = stored.record
        after = msgspec.structs.replace(
            before,
            spec=spec,
            previous_spec=before.spec,
            spec_number=before.spec_number + 1,
            updated_at=self._now_s(),
            request_id=context.request_id,
        )
        by = context.principal.name
        rollout = update_rollout(view, before, after, self._id(), by, change)
        steps: list[Step] = [
            Replace(stored, after),
            Create(rollout),
            *supersede(view, rollout),
            *_claims(view, before.spec, spec),
        ]
        return Decision(steps, _changed(after, rollout))

    def _now_s(self) -> float:
        return self._requests.clock.now().timestamp()

    def _id(self) -> str:
        return format_id(self._entropy.token(16))


def get_service(view: View, name: str) -> Stored[ServiceRecord]:
    """Return the service of a name, or raise ServiceNotFound."""
    stored = view.service_by_name(name)
    if stored is None or stored.record.name != name:
        raise ServiceNotFound(f"there is no service {name!r}; see `strongroom service ls`")
    return stored


def service_resource(view: View, name: str) -> Resource:
    """Return what a policy judges; a service that is not there has no labels."""
    stored = view.service_by_name(check_service_name(name))
    labels = stored.record.spec.labels if stored is not None else {}
    return Resource(Kind.SERVICE.value, name, labels)


def _changed(service: ServiceRecord, rollout: RolloutRecord) -> dict[str, JSON]:
    return {
        "id": service.id,
        "name": service.name,
        "spec_number": service.spec_number,
        "rollout": rollout.id,
    }


def _usable(view: View, principal: Principal, named: ReferenceDraft) -> VersionedRecord | None:
    """Return what the caller may hand out; "not yours" and "not there" are one answer."""
    found = view.config_by_name if named.config else view.secret_by_name
    stored: Stored[VersionedRecord] | None = found(named.source)
    if stored is None or stored.record.name != named.source:
        return None
    return stored.record if in_reach(principal, stored.record.labels) else None


def check_reach(view: View, principal: Principal, spec: ServiceSpec) -> None:
    """Raise PermissionDenied if a spec holds a secret or config that the caller may not touch."""
    for reference in spec.references:
        stored = view.source(reference.secret_id)
        if stored is not None and not in_reach(principal, stored.record.labels):
            kind = "config" if reference.config else "secret"
            raise PermissionDenied(f"the service holds a {kind} outside your labels; ask an admin")


def _claims(view: View, before: ServiceSpec | None, after: ServiceSpec) -> Iterable[Step]:
    """Yield a rewrite of every secret or config on which `after` makes a claim that `before` made
    not."""
    held = {(r.secret_id, r.version) for r in before.references} if before is not None else set()
    new = {r.secret_id for r in after.references if (r.secret_id, r.version) not in held}
    for secret_id in sorted(new):
        stored = view.source(secret_id)
        if stored is None:
            raise InvalidReference(
                "a secret or config of the service is gone; see `strongroom service inspect`"
            )
        yield Replace(stored, stored.record)
