"""Judges what nodes got: by the files on agents, by a probe's messages, by the records. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.faults.history import Operation
from tests.faults.observer import BROKEN, Sight

Values = Mapping[str, tuple[str, int | None]]
"""Mark -> secret name and version, where it is known."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt as the store has it."""

    secret: str
    version: int
    node: str
    service_id: str
    key: str


def receipts_of(told: Mapping[str, Any]) -> list[Receipt]:
    """Return the receipts that a store reader told of, with names where it knows them."""
    return [
        Receipt(
            told["secret_names"].get(secret_id, secret_id),
            version,
            told["nodes"].get(node_id, node_id),
            service_id,
            key,
        )
        for secret_id, version, node_id, service_id, key, *_ in told["receipts"]
    ]


def file_faults(
    sights: Sequence[Sight],
    values: Values,
    receipts: Iterable[Receipt],
    service_names: Mapping[str, str],
    lasting: Iterable[tuple[str, str, str]],
    wanted: Callable[[str, str, str], Sequence[tuple[str, int]]] | None,
) -> Iterator[str]:
    """Yield what is wrong with files that agents had: torn, of another secret, behind what they
    were before, without a receipt, or gone although they should stay (`lasting`).

    `wanted` returns what a file was to hold, one after the other: a file may skip, and never go
    back in that. None: nobody knows.
    """
    issued = {
        (one.secret, one.version, one.node, service_names.get(one.service_id, "?"))
        for one in receipts
    }
    orders: dict[tuple[str, str, str], _Order] = {}
    stays = frozenset(lasting)
    for sight in sights:
        place = (sight.agent, sight.service, sight.target)
        where = f"{sight.agent} {sight.service}/{sight.target} at {sight.at:.2f}"
        if sight.mark == "":
            if place in stays:
                yield f"{where}: the file is gone and should have stayed"
            continue
        if sight.mark == BROKEN or sight.mark not in values:
            yield f"{where}: holds what nobody wrote"
            continue
        secret, version = values[sight.mark]
        if secret != sight.target.removesuffix(".previous"):
            yield f"{where}: holds a value of {secret}"
        if version is None:
            continue
        if wanted is not None:
            order = orders.get(place) or orders.setdefault(place, _Order(wanted(*place)))
            if not order.goes_on((secret, version)):
                yield f"{where}: version {version} came after {order.last}"
        if (secret, version, sight.agent, sight.service) not in issued:
            yield f"{where}: version {version} of {secret} has no receipt"


@dataclass(slots=True)
class _Order:
    """How far a file has come in what it was to hold."""

    wanted: Sequence[tuple[str, int]]
    position: int = 0

    @property
    def last(self) -> int | None:
        """The version it has come to."""
        return self.wanted[self.position][1] if self.position < len(self.wanted) else None

    def goes_on(self, file: tuple[str, int]) -> bool:
        """Go on to the next place where it was to hold this; return whether there is one."""
        for index in range(self.position, len(self.wanted)):
            if self.wanted[index] == file:
                self.position = index
                return True
        return False


def probe_faults(
    messages: Sequence[Mapping[str, Any]],
    operations: Iterable[Operation],
    began: float,
    receipts: Mapping[tuple[str, int, str], str],
    first_written: Mapping[str, int],
) -> Iterator[str]:
    """Yield what is wrong with the messages of a probe.

    `receipts`: (secret id, version, service id) -> engine key, of this node; `first_written`:
    engine key -> the revision that created it.
    """
    seen = sorted((began + one.end, int(one.revision)) for one in operations if one.revision)
    last = 0
    base: int | None = None
    fresh = 0
    for message in messages:
        where = f"session {message['session']} at {message['at']:.2f}"
        match message["kind"]:
            case "hello":
                base = None
                last = max(last, message["highest"] or 0)
                fresh = _newest(seen, message["at"])
            case "resync":
                fresh = _newest(seen, message["at"])
            case "snapshot" | "delta":
                revision = message["revision"]
                if message["kind"] == "delta" and message["base"] != base:
                    yield f"{where}: a delta builds on {message['base']}, the last was {base}"
                if revision < last:
                    yield f"{where}: revision {revision} came after {last}"
                if message["kind"] == "snapshot" and revision < fresh:
                    yield f"{where}: revision {revision}, but {fresh} was acknowledged before"
                for secret_id, version in message["missing"]:
                    yield f"{where}: no value came for {secret_id}/{version}"
                yield from _unreceipted(message, receipts, first_written, where)
                last, base = max(last, revision), revision
            case _:
                pass


def _newest(seen: Iterable[tuple[float, int]], moment: float) -> int:
    return max((number for at, number in seen if at < moment), default=0)


def _unreceipted(
    message: Mapping[str, Any],
    receipts: Mapping[tuple[str, int, str], str],
    first_written: Mapping[str, int],
    where: str,
) -> Iterator[str]:
    for service_id, secret_id, version in message["files"]:
        key = receipts.get((secret_id, version, service_id))
        if key is None:
            yield f"{where}: {secret_id}/{version} for {service_id} has no receipt"
        elif first_written.get(key, 0) > message["revision"]:
            yield f"{where}: {secret_id}/{version} was sent before its receipt was written"


def desired_files(told: Mapping[str, Any]) -> dict[tuple[str, str, str], tuple[str, int]]:
    """Return (node, service, target) -> secret and version that must be there, by the records."""
    return {
        (node, service, target): (told["secret_names"][secret_id], version)
        for service, node, target, secret_id, version in told["files"]
    }


def differences(
    desired: Mapping[tuple[str, str, str], tuple[str, int]],
    found: Mapping[tuple[str, str, str], str],
    values: Values,
) -> list[str]:
    """Return how the files on agents (place -> mark) differ from what must be there."""
    wrong: list[str] = []
    for place, mark in found.items():
        wanted = desired.get(place)
        name = "/".join(place)
        if wanted is None:
            if mark:
                wrong.append(f"{name} is there and should be gone")
        elif not mark:
            wrong.append(f"{name} is missing, {wanted[0]}/{wanted[1]} is wanted")
        elif mark not in values:
            wrong.append(f"{name} holds what nobody wrote")
        elif values[mark][0] != wanted[0] or values[mark][1] not in {None, wanted[1]}:
            wrong.append(f"{name} holds {values[mark]}, {wanted} is wanted")
    return wrong


def waiting_faults(told: Mapping[str, Any]) -> list[str]:
    """Return the receipts that wait for ever: at rest a node that is not gone has said of each
    version that it was issued whether it has it, or why it cannot."""
    gone = set(told["evicted"])
    return [
        f"{told['nodes'][node_id]} said nothing of version {version} of "
        f"{told['secret_names'].get(secret_id, secret_id)} for {service_id}"
        for secret_id, version, node_id, service_id, _, *said in told["receipts"]
        if node_id in told["nodes"] and node_id not in gone and not any(said)
    ]


def replica_faults(replicas: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return where the members of the engine differ at one revision."""
    (first, whole), *others = replicas.items()
    wrong = []
    for name, replica in others:
        keys = whole.keys() | replica.keys()
        different = sorted(key for key in keys if whole.get(key) != replica.get(key))
        if different:
            wrong.append(f"{first} and {name} differ in {len(different)} keys, like {different[0]}")
    return wrong
