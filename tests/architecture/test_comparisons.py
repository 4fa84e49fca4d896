"""What proves something is compared in constant time: no `==` on a token, a digest or a verifier.

Every other comparison of a thing with such a name is listed with the reason why its time tells
nothing.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.threat("T-11")

PROOF = re.compile(
    r"(^|_)(digest|hexdigest|verifier|unlock_verifier|serial|hmac|mac|token|unlock_key)$"
)
ALLOWED = {
    "cluster/cli/enrolment.py: sha256(der).hexdigest() == root_digest": "a public certificate's",
    "agent/joining.py: sha256(der).hexdigest() == root_digest": "a public certificate's",
    "agent/joining.py: joined.bundle.root_digest() != token.root_digest": "public certificates'",
    "cluster/pki/trust_bundle.py: hashlib.sha256(der).hexdigest() == root_digest": "the same",
    "cluster/control/enrolment.py: node.public_keys[0] == digest": "a public key's",
    "cluster/control/audit_statements.py: digest != head.digest": "of links, in a signed file",
    "cluster/control/requests.py: (record.caller, record.digest) != "
    "(self._context.principal.name, self._context.digest)": "keyed, of the caller's own request",
    "cluster/seal/unlock.py: SecretBytes(unlock_verifier(unlock_key)) == SecretBytes(verifier)": (
        "SecretBytes compares in constant time"
    ),
    "cluster/seal/unlock.py: aead.digest(content) != digest": "tells accidents in one's own file",
    "cluster/store/audit_export.py: named.get(stream) != (head.sequence, head.digest)": (
        "of links that were opened and verified"
    ),
}


def proofs_compared(module: ast.Module) -> Iterator[str]:
    """Yield equality comparisons in which something is named like a proof."""
    for node in ast.walk(module):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq):
            sides = [node.left, *node.comparators]
            if not any(isinstance(side, ast.Constant) for side in sides) and any(
                PROOF.search(name) for side in sides for name in _names(side)
            ):
                yield ast.unparse(node)


def _names(side: ast.expr) -> Iterator[str]:
    """Yield the last word of an operand, and of each part of it."""
    match side:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            yield name
        case ast.Call(func=function, args=arguments):
            yield from _names(function)
            for argument in arguments:
                yield from _names(argument)
        case ast.Tuple(elts=parts):
            for part in parts:
                yield from _names(part)
        case ast.Subscript(value=value):
            yield from _names(value)
        case _:
            return


def test_proofs_are_compared_in_constant_time(root: Path) -> None:
    found = {
        f"{path.relative_to(root)}: {comparison}"
        for package in ("cluster", "agent")
        for path in sorted((root / package).rglob("*.py"))
        for comparison in proofs_compared(ast.parse(path.read_text()))
    }
    assert found - set(ALLOWED) == set(), "use hmac.compare_digest, or list it with its reason"
    assert set(ALLOWED) - found == set(), "gone: take them off the list"


@pytest.mark.parametrize(
    "source", ["a.digest == b", "x != token", "hash(c).hexdigest() == d", "(e, f.verifier) != g"]
)
def test_comparison_of_a_proof_is_found(source: str) -> None:
    assert list(proofs_compared(ast.parse(source)))


@pytest.mark.parametrize(
    "source", ["a.token_id == b", "len(x) != 3", "serials == []", "a is token"]
)
def test_other_comparison_is_not(source: str) -> None:
    assert list(proofs_compared(ast.parse(source))) == []
