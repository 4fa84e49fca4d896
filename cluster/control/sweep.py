"""What has had its time: request ids, spent tokens, joins that were never completed, old rollouts,
receipts of versions that are long forgotten.

Pure: returns the steps, in pieces small enough for one transaction.
"""

from collections.abc import Collection, Iterator
from heapq import nsmallest
from itertools import islice
from typing import Final

import msgspec

from cluster.control.receipt_ages import unneeded_receipts
from cluster.control.rollouts import outdated
from cluster.store.records import (
    Kind,
    ManagerState,
    NodeRecord,
    RequestRecord,
    name_id,
)
from cluster.store.steps import Remove, Replace, Step
from cluster.store.view import Stored, View

STEPS_PER_WRITE: Final = 60
TOKEN_KEPT_S: Final = 3_600.0
"""After its end a token is kept for as long as a repeated join may ask for its reply."""


MAX_REQUESTS: Final = 100_000
"""Answers kept for resends; above it the oldest go before their time."""


class KnownRequests:
    """Since when the holder of the duty knows each request id, on a clock that never jumps.

    A calendar that jumps, on the manager that wrote the id or on the one that sweeps, would forget
    it at once, and a resend would be carried out again.
    """

    def __init__(self) -> None:
        self._since_s: dict[str, float] = {}

    def over(self, view: View, monotonic_s: float, ttl_s: float) -> frozenset[str]:
        """Take in the ids of the view and return those known for `ttl_s`."""
        self._since_s = {
            request_id: self._since_s.get(request_id, monotonic_s) for request_id in view.requests
        }
        return frozenset(
            request_id
            for request_id, since_s in self._since_s.items()
            if monotonic_s - since_s >= ttl_s
        )


def overdue(
    view: View, now_s: float, return_grace_s: float, requests: Collection[str] = frozenset()
) -> list[Step]:
    """Return the steps that remove what is over at `now_s`, and `requests`, at most
    `STEPS_PER_WRITE`."""
    return list(islice(_overdue(view, now_s, return_grace_s, requests), STEPS_PER_WRITE))


def _overdue(
    view: View, now_s: float, return_grace_s: float, requests: Collection[str]
) -> Iterator[Step]:
    yield from (Remove(stored) for stored in _requests(view, requests))
    for token in view.join_tokens.values():
        if token.record.expires_at + TOKEN_KEPT_S <= now_s:
            yield Remove(token)
    yield from (Remove(stored) for stored in outdated(view.rollouts.values()))
    yield from _joins(view, now_s)
    yield from _evicted(view, now_s, return_grace_s)
    yield from _statuses(view)
    yield from unneeded_receipts(view, now_s)


def _requests(view: View, over: Collection[str]) -> Iterator[Stored[RequestRecord]]:
    kept = []
    for stored in view.requests.values():
        if stored.record.id in over:
            yield stored
        else:
            kept.append(stored)
    surplus = min(len(kept) - MAX_REQUESTS, STEPS_PER_WRITE)
    if surplus > 0:
        yield from nsmallest(surplus, kept, key=lambda stored: stored.record.expires_at)


def _joins(view: View, now_s: float) -> Iterator[Step]:
    """Forget replies whose time is over, and managers that never came."""
    for node in view.nodes.values():
        join = node.record.join
        if node.record.revoked_at is None and join is not None and join.expires_at <= now_s:
            yield Replace(node, msgspec.structs.replace(node.record, join=None))
    for operator in view.operators.values():
        enrolment = operator.record.enrolment
        if enrolment is not None and enrolment.expires_at <= now_s:
            yield Replace(operator, msgspec.structs.replace(operator.record, enrolment=None))
    for manager in view.managers.values():
        pending = manager.record.pending
        if pending is None or pending.expires_at > now_s:
            continue
        if manager.record.state is not ManagerState.PENDING:
            yield Replace(manager, msgspec.structs.replace(manager.record, pending=None))
            continue
        # The name goes first: a sweep may end between the two, and the record leads to the name.
        claim = view.names.get(name_id(Kind.MANAGER, manager.record.name))
        if claim is not None and claim.record.owner == manager.record.id:
            yield Remove(claim)
        yield Remove(manager)


def _evicted(view: View, now_s: float, return_grace_s: float) -> Iterator[Step]:
    """Forget removed nodes that cannot come back any more to be told so."""
    for node in view.nodes.values():
        if _is_over(node, now_s, return_grace_s):
            yield Remove(node)


def _is_over(node: Stored[NodeRecord], now_s: float, return_grace_s: float) -> bool:
    revoked_at = node.record.revoked_at
    if revoked_at is None:
        return False
    return max(node.record.not_after, revoked_at) + return_grace_s <= now_s


def _statuses(view: View) -> Iterator[Step]:
    """Forget what was known of tasks, nodes and services that are gone."""
    for history in view.task_histories.values():
        if view.services.get(history.record.id) is None:
            yield Remove(history)
    for task in view.task_statuses.values():
        if view.tasks.get(task.record.id) is None:
            yield Remove(task)
    for node in view.node_statuses.values():
        if view.nodes.get(node.record.id) is None:
            yield Remove(node)
