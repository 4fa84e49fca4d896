"""Signed checkpoints: whoever has the control authorities believes a manager's and no other."""

import base64
import json
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from cluster.pki.audit_statement import MAX_BYTES, AuditStatement, StatedHead, proven, sign
from cluster.protocol.errors import InvalidRequest, PermissionDenied
from cluster.protocol.identity import Kind
from cluster.system import SystemClock
from tests.support.authority import TRUST_DOMAIN, ClusterAuthority, Credential
from tests.support.clock import ManualClock


@pytest.fixture(scope="module")
def authority() -> ClusterAuthority:
    return ClusterAuthority()


def statement(**changed: Any) -> AuditStatement:  # noqa: ANN401  # any field
    said: dict[str, Any] = {
        "cluster_id": "c1",
        "trust_domain": TRUST_DOMAIN,
        "manager_id": "m1",
        "at": SystemClock().now().timestamp(),
        "incarnation_counter": 1,
        "incarnation_unique": "first",
        "revision": 7,
        "checkpoint": 0,
        "chains": (StatedHead("audit/m1/b1/0", 3, "ab" * 32),),
    }
    return AuditStatement(**(said | changed))


def signed(authority: ClusterAuthority, credential: Credential, **changed: Any) -> bytes:  # noqa: ANN401
    return sign(statement(**changed), credential.key_pem, credential.chain_pem, authority.root_der)


def believed(authority: ClusterAuthority, file: bytes) -> AuditStatement:
    return proven(file, authority.control_der, TRUST_DOMAIN)


def test_what_a_manager_signs_is_believed_and_holds_its_chain(authority: ClusterAuthority) -> None:
    file = signed(authority, authority.issue(Kind.MANAGER, "m1"), at=1.5e9 + 0.125)
    with pytest.raises(PermissionDenied, match="was not valid"):
        believed(authority, file)
    said = statement()
    file = signed(authority, authority.issue(Kind.MANAGER, "m1"), at=said.at)
    assert believed(authority, file) == said
    certificates = json.loads(file)["signatures"][0]["certificates"]
    assert [base64.b64decode(der) for der in certificates[1:]] == [
        *authority.control_der,
        authority.root_der,
    ]


def test_certificate_may_have_expired_since(authority: ClusterAuthority) -> None:
    """It has a short life; what counts is the statement's time."""
    past = ManualClock(SystemClock().now() - timedelta(days=2))
    credential = authority.issue(Kind.MANAGER, "m1", clock=past)
    then = past.now().timestamp()
    assert believed(authority, signed(authority, credential, at=then)).at == then
    with pytest.raises(PermissionDenied, match="was not valid"):
        believed(authority, signed(authority, credential))


@pytest.mark.threat("T-55")
@pytest.mark.parametrize("field", AuditStatement.__struct_fields__)
def test_no_field_can_be_changed(authority: ClusterAuthority, field: str) -> None:
    """Each byte of each field, under the signature of the whole; as it was, it is believed."""
    file = json.loads(signed(authority, authority.issue(Kind.MANAGER, "m1")))
    payload = base64.b64decode(file["payload"])
    believed(authority, json.dumps(file).encode())
    start = payload.index(b'"%b":' % field.encode()) + len(field) + 3
    fields = AuditStatement.__struct_fields__
    later = fields[fields.index(field) + 1 :]
    end = payload.index(b',"%b":' % later[0].encode()) if later else len(payload) - 1
    for place in range(start, end):
        changed = payload[:place] + bytes([payload[place] ^ 1]) + payload[place + 1 :]
        file["payload"] = base64.b64encode(changed).decode()
        with pytest.raises(PermissionDenied, match="not over what it says"):
            believed(authority, json.dumps(file).encode())


@pytest.mark.threat("T-55")
@pytest.mark.parametrize("kind", [Kind.NODE, Kind.OPERATOR, Kind.SERVICE])
def test_only_a_manager_is_believed(authority: ClusterAuthority, kind: Kind) -> None:
    """A certificate of the same authority and a whole signature, of somebody else."""
    file = signed(authority, authority.issue(kind, "m1"))
    with pytest.raises(PermissionDenied):
        believed(authority, file)
    assert believed(authority, signed(authority, authority.issue(Kind.MANAGER, "m1"))).revision == 7


@pytest.mark.threat("T-55")
def test_managers_of_other_clusters_and_other_names_are_not_believed(
    authority: ClusterAuthority,
) -> None:
    other = ClusterAuthority()
    file = signed(other, other.issue(Kind.MANAGER, "m1"))
    with pytest.raises(PermissionDenied, match="not of this cluster"):
        believed(authority, file)
    assert believed(other, file).manager_id == "m1"
    credential = authority.issue(Kind.MANAGER, "m2")
    for changed in ({}, {"manager_id": "m2", "trust_domain": "elsewhere"}):
        with pytest.raises(PermissionDenied, match="another manager"):
            believed(authority, signed(authority, credential, **changed))
    assert believed(authority, signed(authority, credential, manager_id="m2")).revision == 7
    with pytest.raises(PermissionDenied, match="no manager here"):
        proven(signed(authority, credential, manager_id="m2"), authority.control_der, "elsewhere")


@pytest.mark.threat("T-55")
def test_what_was_signed_for_another_use_is_no_statement(authority: ClusterAuthority) -> None:
    """The type is under the signature: renaming it does not carry a signature over."""
    file = json.loads(signed(authority, authority.issue(Kind.MANAGER, "m1")))
    renamed = {**file, "payloadType": "application/json"}
    with pytest.raises(InvalidRequest):
        believed(authority, json.dumps(renamed).encode())
    bare = authority.issue(Kind.MANAGER, "m1")
    file["signatures"][0]["certificates"][0] = base64.b64encode(bare.der).decode()
    with pytest.raises(PermissionDenied, match="not over what it says"):
        believed(authority, json.dumps(file).encode())


def test_what_cannot_be_read_is_refused(authority: ClusterAuthority) -> None:
    credential = authority.issue(Kind.MANAGER, "m1")
    file = json.loads(signed(authority, credential))
    twice = statement().chains * 2
    for broken in (
        b"",
        b"[" * 3000,
        b"{}",
        b"\xff",
        json.dumps({**file, "signatures": file["signatures"] * 2}).encode(),
        json.dumps({**file, "signatures": []}).encode(),
        json.dumps({**file, "signatures": [{"sig": "", "certificates": []}]}).encode(),
        b" " * MAX_BYTES + json.dumps(file).encode(),
        signed(authority, credential, chains=twice),
        sign(
            msgspec.structs.replace(statement(), format=2),
            credential.key_pem,
            credential.chain_pem,
            authority.root_der,
        ),
    ):
        with pytest.raises(InvalidRequest):
            believed(authority, broken)
