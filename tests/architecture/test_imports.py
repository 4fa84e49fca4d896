"""Imports follow the data, the cores are pure, and cryptography stays in its corner."""

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.architecture.imports import imported_modules, is_within

Modules = Mapping[str, ast.Module]

CRYPTOGRAPHY_USERS = {
    "agent/identity.py": "makes the node's private key",
    "cluster/pki/": "issues and checks certificates",
    "cluster/seal/": "seals and opens records",
}
CERTIFICATE_TYPES = (
    "cryptography.hazmat.primitives.asymmetric.ec",
    "cryptography.hazmat.primitives.serialization",
    "cryptography.x509",
)
KEY_TYPES = {"EllipticCurvePrivateKey", "EllipticCurvePublicKey"}

SHARED_WITH_THE_AGENT = ("cluster.pki", "cluster.protocol", "cluster.system")


def test_layers_hold(root: Path) -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run(
        [linter, "--no-cache"], cwd=root, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


def test_agent_shares_only_protocol_pki_and_system(modules: Modules) -> None:
    strays = [
        f"{path}: {name}"
        for path, module in modules.items()
        if path.startswith("agent/")
        for name in imported_modules(module)
        if is_within(name, "cluster")
        and not any(is_within(name, shared) for shared in SHARED_WITH_THE_AGENT)
    ]
    assert strays == []


def test_cryptography_is_called_in_seal_and_pki_only(modules: Modules) -> None:
    """Elsewhere certificates and keys may be held and encoded, as what seal and pki gave out."""
    strays = [
        f"{path}: {name}"
        for path, module in modules.items()
        if not path.startswith(tuple(CRYPTOGRAPHY_USERS))
        for name in [*cryptography_imported(module), *curve_calls(module)]
    ]
    assert strays == [], "do this in cluster.seal or cluster.pki"


def cryptography_imported(module: ast.Module) -> list[str]:
    """Return what a module imports of cryptography beyond the types of certificates and keys."""
    return [
        name
        for name in imported_modules(module, for_types_too=False)
        if is_within(name, "cryptography")
        and not any(is_within(name, allowed) for allowed in CERTIFICATE_TYPES)
    ]


def curve_calls(module: ast.Module) -> list[str]:
    """Return the uses of `ec` that are more than a type."""
    return [
        ast.unparse(node)
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) == "ec"
        and node.attr not in KEY_TYPES
    ]


def test_signing_is_seen() -> None:
    module = ast.parse(
        "from cryptography import x509\nfrom cryptography.exceptions import InvalidSignature\n"
        "key: ec.EllipticCurvePublicKey\nkey.verify(signature, data, ec.ECDSA(SHA256()))\n"
    )
    assert cryptography_imported(module) == ["cryptography.exceptions.InvalidSignature"]
    assert curve_calls(module) == ["ec.ECDSA"]


def test_only_system_reads_time_and_randomness(modules: Modules) -> None:
    """Ruff bars the calls; this bars the modules that serve nothing else."""
    strays = [
        f"{path}: {name}"
        for path, module in modules.items()
        if path != "cluster/system.py"
        for name in imported_modules(module)
        if any(is_within(name, source) for source in ("random", "secrets", "uuid"))
    ]
    assert strays == [], "take a Clock and an Entropy from cluster.system"


@pytest.mark.parametrize("package", ["agent", "cluster"])
def test_package_names_are_this_distributions(package: str) -> None:
    """An index has a `cluster` and an `agent` of its own: ours must be what the names mean here."""
    file = importlib.import_module(package).__file__
    assert file is not None
    assert Path(file).parents[1] == installed_at(metadata.distribution("strongroom"))
    others = set(metadata.packages_distributions().get(package, ())) - {"strongroom"}
    assert others == set()


def installed_at(distribution: metadata.Distribution) -> Path:
    """Return the directory the packages lie in: the checkout where the install is editable."""
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return Path(urlsplit(origin["url"]).path)
    return Path(str(distribution.locate_file("")))


@pytest.mark.parametrize("package", ["agent", "cluster"])
def test_package_is_typed(root: Path, package: str) -> None:
    assert (root / package / "py.typed").is_file()


def test_imports_inside_functions_are_seen() -> None:
    module = ast.parse(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import ssl\n"
        "def late():\n    from os import path\n"
    )
    assert set(imported_modules(module)) == {"typing.TYPE_CHECKING", "ssl", "os.path"}
    assert set(imported_modules(module, for_types_too=False)) == {
        "typing.TYPE_CHECKING",
        "os.path",
    }
