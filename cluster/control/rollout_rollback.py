"""Taking a rollout back: what was good before is wanted again, in the transaction that says so.

What failed is never issued again by itself: its version is retired, and its value stays for whoever
wants to look at it or roll back to it by hand.
"""

from typing import Final

import msgspec

from cluster.control.retirement import needed_versions, value_removals
from cluster.control.rollout_steps import can_go_back, turned_back
from cluster.control.service_draft import check_usable
from cluster.control.versions import made_primary, rollback_target, settled
from cluster.protocol.errors import Conflict, InvariantViolation, VersionNotFound
from cluster.store.records import RolloutKind, RolloutRecord, ServiceSpec
from cluster.store.steps import Replace, Step
from cluster.store.view import Stored, View

NOTHING_BEFORE: Final = "there is nothing before this change to go back to"
"""Of a rollout that began with nothing that was good."""


def rollback_steps(
    view: View, stored: Stored[RolloutRecord], reason: str, now_s: float, request_id: str = ""
) -> list[Step]:
    """Return the steps that take an open rollout back; `request_id`: empty where nobody asked.

    Raises Conflict when what was before cannot be had again, InvalidReference when a secret that
    the spec before refers to is gone.
    """
    rollout = stored.record
    if not can_go_back(rollout):
        raise Conflict(NOTHING_BEFORE)
    after = turned_back(rollout, reason, now_s)
    if rollout.what is RolloutKind.ROTATE:
        return [Replace(stored, after), *_version_back(view, rollout, now_s, request_id)]
    return _spec_back(view, stored, after, now_s, request_id)


def _version_back(view: View, rollout: RolloutRecord, now_s: float, request_id: str) -> list[Step]:
    secret_id = rollout.secret_id
    secret = view.secrets.get(secret_id) if secret_id is not None else None
    if secret is None or secret_id is None or rollout.before_version is None:
        raise Conflict("the secret of this rollout is gone")
    if secret.record.primary.number != rollout.version:
        raise Conflict("another version is primary by now; see `strongroom secret versions`")
    try:
        version = rollback_target(secret.record, rollout.before_version)
    except VersionNotFound as error:
        raise Conflict(error.message) from None
    back = made_primary(
        secret.record,
        version.number,
        now_s,
        overlap_s=0.0,
        taken_back=True,
        request_id=request_id,
    )
    # At once, not by the duty: what failed is not to be issued again for one moment.
    over = settled(back, now_s, needed_versions(view, back))
    return [Replace(secret, over.record), *value_removals(view, secret_id, over.destroyed)]


def _spec_back(
    view: View,
    stored: Stored[RolloutRecord],
    after: RolloutRecord,
    now_s: float,
    request_id: str,
) -> list[Step]:
    rollout = stored.record
    service = view.services.get(rollout.service_id) if rollout.service_id is not None else None
    if service is None:
        raise Conflict("the service of this rollout is gone")
    if service.record.spec_number != rollout.spec_number:
        raise Conflict("the service has another spec by now; see `strongroom service inspect`")
    spec = spec_before(rollout)
    for reference in spec.references:
        secret = view.source(reference.secret_id)
        check_usable(reference, secret.record if secret is not None else None)
    back = msgspec.structs.replace(
        service.record,
        spec=spec,
        previous_spec=service.record.spec,
        spec_number=service.record.spec_number + 1,
        updated_at=now_s,
        request_id=request_id,
    )
    after = msgspec.structs.replace(after, back_spec_number=back.spec_number)
    return [Replace(stored, after), Replace(service, back)]


def spec_before(rollout: RolloutRecord) -> ServiceSpec:
    """Return the spec that was good before an update."""
    for held in rollout.held_specs:
        if held.number == rollout.before_spec_number:
            return held.spec
    raise InvariantViolation("a rollout of a service does not keep the spec before it")
