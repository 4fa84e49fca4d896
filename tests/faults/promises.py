"""Judges the history of the records: versions, receipts, rollouts, rotations, evictions. Pure.

Each promise is judged revision by revision from what was committed, so that no timing matters.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.faults.entitlements import Body, Event, Records, Timeline, is_holding, primary_of

_OVER: Final = frozenset({"finished", "failed", "rolled_back", "superseded"})


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one record."""

    revision: int
    records: Records
    """After it."""
    before: Mapping[tuple[str, str], Body | None]
    """What its revision changed, by kind and id, as it was."""
    was: Body | None
    body: Body
    timeline: Timeline


Judge = Callable[[Change], Iterator[str]]


def record_faults(
    events: Iterable[Event], timeline: Timeline, refused: Collection[tuple[str, int]]
) -> Iterator[str]:
    """Yield which promises the records broke, and at which revision.

    `refused`: secret names and versions whose services cannot work with them.
    """
    records = Records()
    for revision, _, changes in events:
        before = {(kind, of): records.tables[kind].get(of) for kind, of, _ in changes}
        for one in changes:
            records.take(*one)
        for kind, record_id, body in changes:
            judge = _JUDGES.get(kind)
            if judge is None or body is None:
                continue
            was = before[kind, record_id]
            change = Change(revision, records, before, was, body, timeline)
            for fault in judge(change):
                yield f"revision {revision}: {fault}"
            if kind == "rollout" and (body["name"], body["version"]) in refused:
                for fault in _refused_rollout(body):
                    yield f"revision {revision}: {fault}"


def _secret(change: Change) -> Iterator[str]:
    was, body = change.was, change.body
    name = body["name"]
    states = [version["state"] for version in body["versions"]]
    if states.count("primary") != 1:
        yield f"{name} has {states.count('primary')} primary versions"
    if was is None:
        return
    if body["next_number"] < was["next_number"]:
        yield f"{name}'s next number went back to {body['next_number']}"
    old = {version["number"]: version for version in was["versions"]}
    for version in body["versions"]:
        number = version["number"]
        known = old.get(number)
        what = f"version {number} of {name}"
        if known is None and number < was["next_number"] - 1:
            yield f"{what} has a number that was given before"
        elif known is not None and known["created_at"] != version["created_at"]:
            yield f"{what} is another one now"
        elif known is not None and known["destroyed"] and version["state"] != "retired":
            yield f"{what} was destroyed and is {version['state']}"
        elif known is not None and (known["state"], version["state"]) == ("retired", "active"):
            yield f"{what} was retired and is active again"


def _receipt(change: Change) -> Iterator[str]:
    was, body = change.was, change.body
    if was is not None and was["issued_at"] == body["issued_at"]:
        return
    place = (body["service_id"], body["node_id"])
    what = f"version {body['version']} of {body['secret_name']} for {body['service_name']}"
    what += f" on {body['node_name']}"
    # One transaction may carry a receipt and, behind it, the eviction that it came before.
    node = change.records.tables["node"].get(body["node_id"])
    node = change.before.get(("node", body["node_id"]), node)
    if node is not None and node["revoked_at"] is not None:
        yield f"{what} is issued to a node that is evicted"
    # A receipt may come later than the moment from which its task has the version, never before.
    first = change.timeline.first.get((*place, body["secret_id"], body["version"]))
    if first is None or first > change.revision:
        yield f"{what} is issued, and the task was not to have it by then"


def _rollout(change: Change) -> Iterator[str]:
    records, was, body = change.records, change.was, change.body
    name = f"the rollout of {body['name']} to {body['version'] or body['spec_number']}"
    same = [
        one
        for one in records.tables["rollout"].values()
        if is_holding(one)
        and (one["secret_id"], one["service_id"]) == (body["secret_id"], body["service_id"])
    ]
    if len(same) > 1:
        yield f"{len(same)} rollouts of {body['name']} hold tasks back"
    if was is not None and was["state"] in _OVER and was["state"] != body["state"]:
        yield f"{name} was {was['state']} and is {body['state']}"
    turned = body["state"] == "rolling_back" and (was is None or was["state"] != "rolling_back")
    secret = records.tables["secret"].get(body["secret_id"] or "")
    if turned and secret is not None and primary_of(secret) != body["before_version"]:
        yield f"{name} goes back, and version {primary_of(secret)} is primary"
    if body["state"] == "rolled_back":
        left = [one for one in body["targets"] if one["state"] in {"released", "done", "failed"}]
        if left:
            yield f"{name} is rolled back, and {len(left)} tasks are not back"
    yield from _canaries(was, body)


def _canaries(was: Body | None, body: Body) -> Iterator[str]:
    """Yield a release of more tasks than canaries, before these passed."""
    if was is None or body["policy"] is None or body["canary_passed"] or not is_holding(body):
        return
    before = {_task(one) for one in was["targets"] if one["released_at"] is not None}
    started = [one for one in body["targets"] if one["released_at"] is not None]
    new = [one for one in started if _task(one) not in before]
    # One that went, and whose task comes back later, was released in its turn.
    held = [one for one in started if one["state"] != "gone"]
    if new and len(held) > body["policy"]["canary"]:
        yield f"{len(held)} tasks have {body['name']}/{body['version']} before a canary passed"


def _task(target: Body) -> tuple[str, str]:
    return target["service_id"], target["node_id"]


def _refused_rollout(body: Body) -> Iterator[str]:
    name = f"the rollout of {body['name']} to {body['version']}, which its services refuse,"
    if body["policy"] is None:
        return
    if body["canary_passed"]:
        yield f"{name} passed its canaries"
    if any(one["state"] == "done" for one in body["targets"]):
        yield f"{name} is done on a task"


def _rotation(change: Change) -> Iterator[str]:
    was, body = change.was, change.body
    others = [
        one["id"]
        for one in change.records.tables["rotation"].values()
        if one["secret_id"] == body["secret_id"] and one["finished_at"] is None
    ]
    if len(others) > 1:
        yield f"{body['name']} has {len(others)} rotations under way"
    if was is not None and was["version"] not in {None, body["version"]}:
        yield f"rotation {body['id']} of {body['name']} makes another version now"


_JUDGES: Final[Mapping[str, Judge]] = {
    "secret": _secret,
    "receipt": _receipt,
    "rollout": _rollout,
    "rotation": _rotation,
}


def manifest_faults(
    messages: Sequence[Mapping[str, Any]], node_id: str, timeline: Timeline, last: int
) -> Iterator[str]:
    """Yield where a node was not sent exactly what the records of the message's revision say.

    `last`: the revision up to which the timeline reaches.
    """
    for message in messages:
        if message["kind"] not in {"snapshot", "delta"} or message["revision"] > last:
            continue
        sent = {(service, secret, version) for service, secret, version in message["files"]}
        wanted = timeline.of_node(node_id, message["revision"])
        where = f"session {message['session']} at revision {message['revision']}"
        for service, secret, version in sorted(sent - wanted):
            name = timeline.service_names.get(service, service)
            yield (
                f"{where}: {name} was sent version {version} of "
                f"{timeline.secret_names.get(secret, secret)}, which it is not to have"
            )
        if wanted - sent:
            yield f"{where}: {len(wanted - sent)} files are missing"


def exposure_faults(
    told: Mapping[str, Any], receipts: Iterable[tuple[str, int, str]]
) -> Iterator[str]:
    """Yield which live versions an evicted node held without being marked.

    `receipts`: secret id, version and node id.
    """
    unmarked = {(secret_id, version) for secret_id, version in told["unmarked"]}
    for secret_id, version, node_id in receipts:
        if node_id in told["evicted"] and (secret_id, version) in unmarked:
            name = told["secret_names"].get(secret_id, secret_id)
            yield f"version {version} of {name} was on an evicted node, is live and not marked"
