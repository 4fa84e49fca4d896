"""How secrets and their versions look in answers: metadata, never a value. Pure."""

from cluster.control.delivered import must_rotate
from cluster.control.moments import moment
from cluster.control.requests import JSON
from cluster.control.rotation_shown import shown_rotation
from cluster.protocol.ids import NodeId, SecretId
from cluster.store.records import SecretRecord, SecretVersion, task_id
from cluster.store.view import View


def secret_shown(view: View, secret: SecretRecord) -> dict[str, JSON]:
    """Return what an operator sees of a secret."""
    services = view.services_referring_to(SecretId(secret.id))
    return {
        "id": secret.id,
        "name": secret.name,
        "labels": secret.labels,
        "must_rotate": must_rotate(secret),
        "versions": [version_shown(version) for version in secret.versions],
        "keep": secret.keep,
        "overlap_s": secret.overlap_s,
        "expires_at": moment(secret.primary.expires_at),
        **shown_rotation(view, secret),
        "created_at": moment(secret.created_at),
        "updated_at": moment(secret.updated_at),
        "used_by": sorted(stored.record.name for stored in services),
    }


def version_shown(version: SecretVersion) -> dict[str, JSON]:
    """Return what an operator sees of a version."""
    return {
        "number": version.number,
        "state": version.state.value,
        "size": version.size,
        "created_at": moment(version.created_at),
        "created_by": version.created_by,
        "retire_at": moment(version.retire_at),
        "expires_at": moment(version.expires_at),
        "value": "destroyed" if version.destroyed else "kept",
        "taken_back": version.taken_back,
        "exposed_at": moment(version.exposed_at),
        "exposed_by": version.exposed_by,
    }


def versions_shown(view: View, secret: SecretRecord) -> list[dict[str, JSON]]:
    """Return the versions, each with the services that pin it and the nodes that have it in
    place."""
    pins = _pins(view, secret)
    nodes = _nodes(view, secret)
    return [
        {
            **version_shown(version),
            "pinned_by": sorted(pins.get(version.number, ())),
            "nodes": sorted(nodes.get(version.number, ())),
        }
        for version in secret.versions
    ]


def _pins(view: View, secret: SecretRecord) -> dict[int, set[str]]:
    """Return the names of services by the version that their present or previous spec pins."""
    pins: dict[int, set[str]] = {}
    for stored in view.services_referring_to(SecretId(secret.id)):
        service = stored.record
        for spec in filter(None, (service.spec, service.previous_spec)):
            for reference in spec.references:
                if reference.secret_id == secret.id and reference.version is not None:
                    pins.setdefault(reference.version, set()).add(service.name)
    return pins


def _nodes(view: View, secret: SecretRecord) -> dict[int, set[str]]:
    """Return the names of nodes by the version that their agents reported in place."""
    nodes: dict[int, set[str]] = {}
    for stored in view.receipts_of_secret(SecretId(secret.id)):
        receipt = stored.record
        status = view.task_statuses.get(task_id(receipt.service_id, receipt.node_id))
        mounted = status.record.mounted if status is not None else ()
        if any((m.secret_id, m.version) == (secret.id, receipt.version) for m in mounted):
            nodes.setdefault(receipt.version, set()).add(_node_name(view, receipt.node_id))
    return nodes


def _node_name(view: View, node_id: NodeId) -> str:
    node = view.nodes.get(node_id)
    return node.record.name if node is not None else node_id
