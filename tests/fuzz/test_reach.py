"""No decoder is without a target: each function that parses is reached by the seeds of one, or is
named here with the reason why it need not be."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Final

import pytest

from tests.fuzz.test_decoders import TARGETS

ROOT: Final = Path(__file__).parents[2]
PARSERS: Final = re.compile(
    r"(msgspec\.(json|msgpack|toml)\.decode|_(FROM_AGENT|FROM_MANAGER|AUDIT_DECODER)\.decode"
    r"|_DECODERS\[kind\]\.decode|json\.loads?|tomllib\.loads?|x509\.load_\w+|serialization\.load_\w+"
    r"|\w+\.unpack(_from)?|b64decode|base64\.b64decode|datetime\.fromisoformat|urlsplit"
    r"|(self\._)?(http\.next_event|parser\.feed_data))\("
)
"""What turns bytes or text of others into something else."""
STORE: Final = "a record that `records` took, of the sealed store"
MANAGER: Final = "the answer of a manager whose certificate was checked"
FRAMED: Final = "the own agent's answer, framed by `local-answer`"
WITHOUT: Final = {
    "agent/attestation.py::attested": "what the kernel says of a peer",
    "agent/certificates.py::_pem": "a chain that `received-leaf` took",
    "agent/cli/exec.py::_await_service": FRAMED,
    "agent/cli/ls.py::run": FRAMED,
    "agent/cli/spiffe.py::_place": FRAMED,
    "agent/identity.py::AgentIdentity.validity": "the own leaf, which `own-leaf` took",
    "agent/joining.py::fetch_bundle": "a root that the token's digest proves",
    "cluster/cli/audit_checkpoint.py::_prove": "what `context` took",
    "cluster/cli/audit_checkpoint.py::show": "what `signed-checkpoint` took",
    "cluster/cli/config.py::_content": MANAGER,
    "cluster/cli/connection.py::Connection._tls": "what `context` took",
    "cluster/cli/enrolment.py::_proven_bundle": "a root that the token's digest proves",
    "cluster/cli/renewal.py::_chain": MANAGER,
    "cluster/control/enrolment.py::Enrolment.join_node": STORE,
    "cluster/control/issuing.py::authority_ends": STORE,
    "cluster/control/managers.py::Managers.join": STORE,
    "cluster/control/operators.py::Operators.enrol": STORE,
    "cluster/control/requests.py::_Attempt._replay": STORE,
    "cluster/doctor/members.py::MemberChecks._certificate_end": "the chain was checked by TLS",
    "cluster/joining.py::Joiner._keys": "what `seal-file` took",
    "cluster/joining.py::Joiner.ask": "sealed by a manager, to this one's key; `hpke`",
    "cluster/joining.py::_pem": MANAGER,
    "cluster/manager_certificate.py::ManagerCertificate._plan": "what `seal-file` took",
    "cluster/manager_certificate.py::ManagerCertificate._renew": "issued here",
    "cluster/pki/audit_statement.py::sign": "what `seal-file` took",
    "cluster/pki/ca.py::Authority.from_der": STORE,
}


@cache
def decoders() -> frozenset[str]:
    """Return `path::qualified name` of each function that calls a parser."""
    found = set()
    for package in ("cluster", "agent"):
        for path in (ROOT / package).rglob("*.py"):
            source, place = path.read_text(), path.relative_to(ROOT).as_posix()
            if PARSERS.search(source) and not place.endswith("_pb2.py"):
                found |= {f"{place}::{name}" for name in _parsing(ast.parse(source))}
    return frozenset(found)


def _parsing(node: ast.AST, prefix: str = "") -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            if any(_parses(one) for one in ast.walk(child)):
                yield prefix + child.name
        elif isinstance(child, ast.ClassDef):
            yield from _parsing(child, f"{prefix}{child.name}.")
        else:
            yield from _parsing(child, prefix)


def _parses(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and PARSERS.fullmatch(f"{_name(node.func)}(") is not None


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name(name):
            return name
        case ast.Attribute(value, name):
            return f"{_name(value)}.{name}"
        case ast.Subscript(value, ast.Name(index)):
            return f"{_name(value)}[{index}]"
        case _:
            return ""


def reached() -> set[str]:
    """Return `path::qualified name` of what the seeds of all targets go through."""
    found = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            found.add((frame.f_code.co_filename, frame.f_code.co_qualname))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        for target in TARGETS.values():
            for seed in target.seeds:
                target.check(seed)
    finally:
        sys.setprofile(before)
    within = ((Path(file), name) for file, name in found if file.startswith(str(ROOT)))
    return {f"{file.relative_to(ROOT).as_posix()}::{name}" for file, name in within}


def test_every_decoder_is_fuzzed() -> None:
    found = decoders()
    left = found - reached()
    assert sorted(left - set(WITHOUT)) == [], "give these a target, or the reason why not"
    assert sorted(set(WITHOUT) - left) == [], "these have a target now, or are gone"


@pytest.mark.parametrize(
    "known",
    ["cluster/pki/csr.py::check_csr", "agent/config.py::_read", "cluster/api/edge.py::decoded"],
)
def test_the_search_finds_decoders(known: str) -> None:
    """The control: an empty list would be complete as well."""
    assert known in decoders()
