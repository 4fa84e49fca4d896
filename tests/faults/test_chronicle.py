"""The chronicle opens what watches bring, and puts it in order."""

import base64
import json
import random

import msgspec

from cluster.protocol.ids import ManagerId
from cluster.seal.envelope import seal_record
from cluster.seal.keyring import new_keyring
from cluster.store.audit_chain import AUDIT_KIND, ChainHead
from cluster.store.records import AuditEntry, Kind, NodeRecord, SecretRecord
from cluster.store.records.codec import encode
from tests.faults.chronicle import opened
from tests.faults.duties import DUTY, DUTY_KEY, LINK
from tests.faults.nemesis import ALONE, FAULTS, SORTS, Nemesis
from tests.faults.plain_records import plain
from tests.support.entropy import SeededEntropy
from tests.support.stores import node, secret


def test_records_come_in_order_and_opened() -> None:
    """What went is told by its id, and other kinds are left out."""
    entropy = SeededEntropy(1)
    keyring = new_keyring(entropy)

    def line(revision: int, record: SecretRecord | NodeRecord, *, gone: bool = False) -> str:
        kind = record.kind.value
        key = keyring.engine_key(kind, record.id)
        sealed = seal_record(
            keyring,
            kind=kind,
            engine_key=key,
            generation=1,
            plaintext=encode(record),
            entropy=entropy,
        )
        value = None if gone else base64.b64encode(sealed).decode()
        other = keyring.engine_key(Kind.REQUEST.value, "r").hex()
        return json.dumps([0.5, revision, [[key.hex(), value], [other, "AAAA"]]])

    stored = secret("s", 1)
    lines = [line(9, stored, gone=True), line(4, stored), line(5, node("n"))]
    events = list(opened(lines, keyring))
    assert [(revision, kind, body is None) for revision, _, ((kind, _, body),) in events] == [
        (4, "secret", False),
        (5, "node", False),
        (9, "secret", True),
    ]
    assert events[0][2][0][2] == plain(stored)


def test_what_is_done_under_the_duty_is_told_with_its_holder() -> None:
    """A chain is known from its registration, which comes with its first link."""
    entropy = SeededEntropy(2)
    keyring = new_keyring(entropy)
    head = ChainHead(ManagerId("i1"), "b", 0)

    def entry(action: str, *, allowed: bool = True) -> AuditEntry:
        return AuditEntry(at=0, caller="c", action=action, resource="r", allowed=allowed)

    def sealed(kind: str, key: bytes, generation: int, content: bytes) -> list[str]:
        stored = seal_record(
            keyring,
            kind=kind,
            engine_key=key,
            generation=generation,
            plaintext=content,
            entropy=entropy,
        )
        return [key.hex(), base64.b64encode(stored).decode()]

    registration = head.registration(0.0)
    known = keyring.engine_key(Kind.AUDIT_STREAM.value, registration.id)
    lines = [
        json.dumps([0.5, 1, [[DUTY_KEY.hex(), base64.b64encode(b"i1").decode()]]]),
        json.dumps([0.5, 4, [[DUTY_KEY.hex(), None]]]),
    ]
    done = [("rollout.update", True), ("secret.create", True), ("rollout.update", False)]
    for sequence, (action, allowed) in enumerate(done, 1):
        link = head.link((entry(action, allowed=allowed),), ())
        key = keyring.stream_key(head.stream, sequence)
        changes = [sealed(AUDIT_KIND, key, sequence, encode(link))]
        if sequence == 1:
            changes.append(sealed(Kind.AUDIT_STREAM.value, known, 1, encode(registration)))
        lines.append(json.dumps([0.5, 4 + sequence, changes]))
        head = head.after(link)
    told = [(revision, changes) for revision, _, changes in opened(lines, keyring) if changes]
    assert told == [
        (1, [(DUTY, DUTY, {"holder": "i1"})]),
        (4, [(DUTY, DUTY, None)]),
        (5, [(LINK, "audit/i1/b/0/1", {"manager_id": "i1", "actions": ["rollout.update"]})]),
    ]


def test_every_field_of_a_record_becomes_plain() -> None:
    class Row(msgspec.Struct, array_like=True):
        kind: Kind
        data: bytes

    assert plain((Row(Kind.NODE, b"\x01"), {"a": None})) == [
        {"kind": "node", "data": "01"},
        {"a": None},
    ]
    json.dumps(plain(secret("s", 1, 2)))


def test_a_second_fault_is_of_another_sort() -> None:
    """Two faults never heal each other, and none strikes while something waits for the cluster."""
    nemesis = Nemesis.__new__(Nemesis)
    nemesis.random = random.Random(1)
    for kind in FAULTS:
        seconds = {nemesis.second(kind) for _ in range(50)}
        if kind in ALONE:
            assert seconds == {None}
        else:
            assert seconds <= set(FAULTS)
            assert not any(kind in sort and seconds & set(sort) for sort in SORTS)
