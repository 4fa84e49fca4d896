"""A secret leaves its `SecretBytes` only where it must: each place is listed with its reason."""

import ast
from collections.abc import Mapping

Modules = Mapping[str, ast.Module]

MAY_REVEAL = {
    # path: what it does with the plaintext
    "agent/generations.py": "writes the tmpfs file",
    "agent/local_server.py": "answers the workload that proved which service it is",
    "cluster/cli/admin_socket.py": "sends the unlock key to the local manager",
    "cluster/cli/connection.py": "sends a new value, and hands the operator's key to TLS",
    "cluster/cli/context_files.py": "writes the operator's key, 0600",
    "cluster/cli/credentials.py": "reads and shows tokens and keys on the terminal or in a file",
    "cluster/cli/enrolment.py": "sends the operator's one-time token",
    "cluster/control/configs.py": "answers a config, which may be read back, to operators",
    "cluster/control/rotation_moves.py": "puts a value it made into a record that the store seals",
    "cluster/control/secrets.py": "puts a new value into the record that the store seals",
    "cluster/engine_start.py": "signs the engine's certificate",
    "cluster/hook/contract.py": "puts a new value into the message to the hook that takes it over",
    "cluster/joining.py": "opens what a joining manager was given, and keeps it in the seal file",
    "cluster/lifecycle.py": "hands a new unlock key to local root, for the caller to save",
    "cluster/manager_certificate.py": "hands the TLS key to the listener",
    "cluster/membership.py": "seals the root key to a manager that joins",
    "cluster/pki/node_envelope.py": "hands values and message keys to the envelope's cipher",
    "cluster/pki/join_token.py": "writes the token for the operator, and its digest for the store",
    "cluster/seal/aead.py": "hands keys and plaintext to the cipher",
    "cluster/seal/keyring.py": "encodes the epoch keys before they are wrapped",
    "cluster/seal/unlock.py": "encodes the seal file before it is sealed; shows a new unlock key",
}

MAY_TOUCH_THE_BUFFER = {"cluster/protocol/secret_bytes.py"}


def reveals(module: ast.Module) -> bool:
    """Return whether the module names `reveal` on anything, called or passed on, or by getattr."""
    return any(
        (isinstance(node, ast.Attribute) and node.attr == "reveal")
        or (isinstance(node, ast.Constant) and node.value == "reveal")
        for node in ast.walk(module)
    )


def test_only_listed_modules_reveal(modules: Modules) -> None:
    found = {path for path, module in modules.items() if reveals(module)}
    assert found - set(MAY_REVEAL) == set(), "a new way out for secrets: justify it in MAY_REVEAL"
    assert set(MAY_REVEAL) - found == set(), "no longer reveals: take it off the list"


def test_only_secret_bytes_touches_its_buffer(modules: Modules) -> None:
    strays = {
        path
        for path, module in modules.items()
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute) and node.attr == "_buffer"
    }
    assert strays == MAY_TOUCH_THE_BUFFER


def test_detour_is_seen() -> None:
    assert reveals(ast.parse("way_out = secret.reveal"))
    assert reveals(ast.parse("getattr(secret, 'reveal')()"))
    assert not reveals(ast.parse("secret.wipe()"))
