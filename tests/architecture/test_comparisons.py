"""What proves something is compared in constant time: no `==`, `in` or `match` on a token, a digest
or a verifier.

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
_BY_VALUE = ast.Eq | ast.NotEq | ast.In | ast.NotIn
ALLOWED = {
    "cluster/cli/enrolment.py: sha256(der).hexdigest() == root_digest": "a public certificate's",
    "agent/joining.py: sha256(der).hexdigest() == root_digest": "a public certificate's",
    "agent/joining.py: joined.bundle.root_digest() != token.root_digest": "public certificates'",
    "cluster/pki/trust_bundle.py: hashlib.sha256(der).hexdigest() == root_digest": "the same",
    "cluster/control/enrolment.py: node.public_keys[0] == digest": "a public key's",
    "cluster/control/enrolment.py: (old.serial, old.key_digest) not in set(known)": (
        "a certificate's serial and public key, which its key has signed for"
    ),
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
    """Yield comparisons by `==`, `in` and `match` in which something is named like a proof."""
    for node in ast.walk(module):
        match node:
            case ast.Compare() if any(isinstance(one, _BY_VALUE) for one in node.ops):
                sides = [node.left, *node.comparators]
                if not any(isinstance(side, ast.Constant) for side in sides) and _proves(sides):
                    yield ast.unparse(node)
            case ast.Match() if _proves([node.subject]):
                yield f"match {ast.unparse(node.subject)}"


def _proves(sides: list[ast.expr]) -> bool:
    return any(PROOF.search(name) for side in sides for name in _names(side))


def _names(side: ast.expr) -> Iterator[str]:
    """Yield the last word of an operand, and of each part of it."""
    match side:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            yield name
        case ast.Call(func=function, args=arguments):
            yield from _names(function)
            for argument in arguments:
                yield from _names(argument)
        case ast.Tuple(elts=parts) | ast.Set(elts=parts) | ast.List(elts=parts):
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
    "source",
    [
        *("a.digest == b", "x != token", "hash(c).hexdigest() == d", "(e, f.verifier) != g"),
        *("digest in known", "a in (b, c.token)", "token not in {d}", "e < f.digest == g"),
        "match token:\n    case _: pass",
        "match (a, b.digest):\n    case _: pass",
    ],
)
def test_comparison_of_a_proof_is_found(source: str) -> None:
    assert list(proofs_compared(ast.parse(source)))


@pytest.mark.parametrize(
    "source", ["a.token_id == b", "len(x) != 3", "serials == []", "a is token", "'-' in token"]
)
def test_other_comparison_is_not(source: str) -> None:
    assert list(proofs_compared(ast.parse(source))) == []
