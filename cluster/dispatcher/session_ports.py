"""What a session needs from outside: the connection to one agent, and who issues certificates.

Protocols only; `cluster.use_cases` and `cluster.api.routes_agent` plug the parts in.
"""

from typing import Protocol

from cluster.protocol import wire
from cluster.protocol.ids import NodeId, ServiceId


class Link(Protocol):
    """One connection, as the session sees it."""

    async def send(self, message: wire.FromManager) -> None:
        """Send a message; raises SessionExpired when the connection is gone."""
        ...

    async def receive(self) -> wire.FromAgent:
        """Return the next message; raises SessionExpired at the end, MalformedMessage for junk."""
        ...


class Renewal(Protocol):
    """Issues a node's next certificate."""

    async def renew_node(self, node_id: NodeId, csr: bytes) -> wire.Certificate:
        """Return a new certificate for a node that proved who it is by its session."""
        ...


class ServiceCertificates(Protocol):
    """Issues certificates of services."""

    async def issue(
        self, node_id: NodeId, service_id: ServiceId, csr: bytes
    ) -> wire.ServiceCertificate:
        """Return a certificate of a service that is placed on the node."""
        ...
