"""Whether a node may have a service at all, and if not, why in an operator's words. Pure."""

from cluster.control.constraints import parse_constraint
from cluster.store.records import Availability, NodeRecord, ServiceRecord


def unfit(service: ServiceRecord, node: NodeRecord | None) -> str:
    """Return why a node may not have a service; empty if it may."""
    if node is None:
        return "its node is gone"
    if node.revoked_at is not None:
        return f"node {node.name} was evicted"
    if node.availability is not Availability.ACTIVE:
        by = f" by {node.availability_by}" if node.availability_by else ""
        return f"node {node.name} is drained{by}"
    for text in service.spec.constraints:
        if not parse_constraint(text).holds(node):
            return f"node {node.name} does not satisfy {text}"
    return ""
