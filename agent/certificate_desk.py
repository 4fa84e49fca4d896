"""Puts services' certificates in place: between the schedule and the mounts.

Owns what follows when a certificate arrives, or does not: whatever fails, the set that is in place
stays. When to ask and what to believe is `agent.certificates`'; files are `agent.mount_table`'s.
"""

from collections.abc import Callable, Iterable

import structlog

from agent.certificates import Certificates
from agent.mount_table import MountTable
from cluster.protocol.errors import ClusterError
from cluster.protocol.wire import (
    ServiceAssignment,
    ServiceCertificate,
    ServiceCertificateRefused,
    ServiceSigningRequest,
)

log = structlog.get_logger(__name__)


class CertificateDesk:
    """The certificates of the services on one node. Times are CLOCK_BOOTTIME seconds."""

    def __init__(self, trust_domain: str, table: MountTable, draw: Callable[[], float]) -> None:
        self._schedule = Certificates(trust_domain, draw)
        self._table = table

    def follow(self, services: Iterable[ServiceAssignment], now_s: float) -> None:
        """See to the certificates of what the node is assigned now."""
        self._schedule.follow(services, now_s)

    def due(self, now_s: float) -> list[ServiceSigningRequest]:
        """Return the requests to send now; those before that got no answer count as failures."""
        requests = self._schedule.due(now_s)
        for request in requests:
            self._note_fault(request.service_id)
        return requests

    def take(
        self, message: ServiceCertificate | ServiceCertificateRefused, now_s: float
    ) -> ServiceAssignment | None:
        """Take in the answer to a request; return the service whose files were swapped for it.

        None: nothing was swapped. What waits for a first certificate goes on with the next `apply`.
        """
        service_id = message.service_id
        try:
            if isinstance(message, ServiceCertificateRefused):
                self._fail(service_id, message.code, now_s)
                return None
            files = self._schedule.accept(message, now_s)
            if files is None:
                return None
            self._table.stage_certificate(service_id, files)
            renewed = self._table.renew_certificate(service_id)
        except ClusterError as error:
            self._fail(service_id, error.code, now_s)
            return None
        except OSError as error:
            self._fail(service_id, type(error).__name__, now_s)
            return None
        self._table.certificate_faults.pop(service_id, None)
        log.info("certificate.received", service_id=service_id, swapped=renewed is not None)
        return renewed

    def _fail(self, service_id: str, reason: str, now_s: float) -> None:
        log.warning("certificate.failed", service_id=service_id, reason=reason)
        self._schedule.failed(service_id, reason, now_s)
        self._note_fault(service_id)

    def _note_fault(self, service_id: str) -> None:
        fault = self._schedule.fault_of(service_id)
        if fault:
            self._table.certificate_faults[service_id] = fault
