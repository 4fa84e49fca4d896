"""Certificates of services: a node asks for one of a service that is placed on it.

Owns the rule and its record. The key was made on the node and stays there; of the request only the
public key is taken, and every name in the certificate comes from the service's own record. The
transaction that records who got which serial compares the node, the task and the service, and it is
begun after the request: a manager whose view lags behind a removal issues nothing. What is recorded
and never arrives does no harm; what is not recorded never leaves. Source: DESIGN 5 and 6.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from cluster.control.issuing import Issued, Issuer, Request, get_cluster, workload_anchors
from cluster.control.policy import Action, Principal, Resource, Role, authorize
from cluster.control.requests import Requests
from cluster.protocol.errors import Conflict, PermissionDenied, TooManyRequests, Unavailable
from cluster.protocol.identity import Kind as IdentityKind
from cluster.protocol.identity import SpiffeId
from cluster.protocol.ids import NodeId, ServiceId, TaskId
from cluster.protocol.wire import ServiceCertificate
from cluster.store.records import Kind, ServiceRecord, TaskState, task_id
from cluster.store.steps import Require, Step, Write
from cluster.store.view import View

PER_LIFE: Final = 20
"""Certificates that a task may have within the life of one, from one manager. It needs two, and one
for each start of its agent; each is an entry of the audit.
"""


class ServiceCertificates:
    """Issues services' certificates to the nodes they are placed on."""

    def __init__(self, requests: Requests, issuer: Issuer) -> None:
        self._requests = requests
        self._issuer = issuer
        self._issued_at_s: dict[TaskId, tuple[float, ...]] = {}
        """By task: when the last certificates were issued, at most `PER_LIFE` of them."""

    async def issue(self, node_id: NodeId, service_id: ServiceId, csr: bytes) -> ServiceCertificate:
        """Return a certificate for the key in `csr` (DER), once its record is committed.

        Raises PermissionDenied, alike for a service that is not placed on the node, wants no
        certificate or does not exist; InvalidRequest for a bad request; TooManyRequests; and
        Unavailable when the record cannot be written.
        """
        request = Request.of(csr)
        store = self._requests.store
        identity = SpiffeId(get_cluster(store.view).trust_domain, IdentityKind.NODE, node_id)
        principal = Principal(identity, str(identity), Role.NODE)
        try:
            service, _ = _decided_from(store.view, node_id, service_id)
            task = task_id(service_id, node_id)
            self._check_rate(store.view, task)
            issued = await self._record(principal, node_id, service_id, request)
            # Only what was issued counts: whoever asks while nothing can be written asks again.
            now_s = self._requests.clock.monotonic_s()
            self._issued_at_s[task] = (*self._issued_at_s.get(task, ()), now_s)[-PER_LIFE:]
        except PermissionDenied:
            resource = Resource(Kind.SERVICE.value)
            self._requests.note_refusal(principal, Action.SERVICE_CERTIFICATE, resource)
            raise
        life_s = issued.not_after_s - self._requests.clock.now().timestamp()
        return ServiceCertificate(service.id, issued.chain, workload_anchors(store.view), life_s)

    async def _record(
        self, principal: Principal, node_id: NodeId, service_id: ServiceId, request: Request
    ) -> Issued:
        """Commit the audit entry that names the serial, and return the certificate it names."""
        issued: Issued | None = None

        def write(view: View) -> Write:
            nonlocal issued
            service, steps = _decided_from(view, node_id, service_id)
            if not workload_anchors(view):
                raise Conflict("the cluster has no workload authority that services could trust")
            resource = Resource(Kind.SERVICE.value, service.name, owner=node_id)
            now = self._requests.clock.now()
            entry = authorize(principal, Action.SERVICE_CERTIFICATE, resource, now)
            issued = self._issuer.service(view, service.name, request)
            return Write(tuple(steps), (msgspec.structs.replace(entry, detail=_told(issued)),))

        await self._requests.store.update(write)
        if issued is None:
            raise Unavailable("the certificate was not issued; ask again")
        return issued

    def _check_rate(self, view: View, task: TaskId) -> None:
        """Raise TooManyRequests if the task had far more certificates than renewing takes.

        Kept for tasks that exist only, so it is bounded by their number.
        """
        for gone in [known for known in self._issued_at_s if view.tasks.get(known) is None]:
            del self._issued_at_s[gone]
        since_s = self._requests.clock.monotonic_s() - get_cluster(view).service_ttl_s
        if sum(at > since_s for at in self._issued_at_s.get(task, ())) >= PER_LIFE:
            raise TooManyRequests("this service had several certificates just now; ask later")


def _decided_from(
    view: View, node_id: NodeId, service_id: ServiceId
) -> tuple[ServiceRecord, Iterable[Step]]:
    """Return the service and the conditions under which the node may have a certificate of it."""
    node = view.nodes.get(node_id)
    task = view.tasks.get(task_id(service_id, node_id))
    service = view.services.get(service_id)
    if node is None or node.record.revoked_at is not None or task is None or service is None:
        raise PermissionDenied
    if task.record.state is not TaskState.RUNNING or not service.record.spec.certificate:
        raise PermissionDenied
    return service.record, (Require(node), Require(task), Require(service))


def _told(issued: Issued) -> str:
    return f"serial {issued.serial} until {issued.not_after_s:.0f}"
