"""Decoders of what lies on a disk or in the store, and of what is typed."""

import argparse
import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Final, cast

import msgspec

import agent.config
import cluster.config
from agent.cli import verbs as agent_command
from agent.identity import AgentIdentity, DataDirectory
from agent.mounts import ServiceMount
from agent.service_set import read_manifest
from cluster.cli import context_files
from cluster.cli import main as operator_command
from cluster.cli.arguments import Parser
from cluster.cli.output import ExitCode
from cluster.cli.settings import Settings
from cluster.hook import endpoint
from cluster.protocol import wire
from cluster.protocol.errors import OpenFailed
from cluster.protocol.identity import Kind as IdentityKind
from cluster.protocol.identity import SpiffeId
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal import padding
from cluster.seal.envelope import open_record, seal_record
from cluster.seal.keyring import Keyring, new_keyring
from cluster.seal.unlock import UnlockKey, open_seal_file
from cluster.store.audit_export import ExportReader
from cluster.store.records import AuditRecord, Kind, codec
from tests.fuzz.messages import filled
from tests.fuzz.networked import AUTHORITY, KEY, NODE
from tests.fuzz.target import CANARY, Target
from tests.support.entropy import SeededEntropy

ENTROPY: Final = SeededEntropy(6)
SETTINGS_BYTES: Final = 64 * 1024


@contextlib.contextmanager
def file_of(data: bytes, name: str) -> Iterator[Path]:
    """Give a file with this content, alone in a directory."""
    with tempfile.TemporaryDirectory(prefix="sr-fuzz-") as directory:
        path = Path(directory) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o600)
        yield path


def on_file(read: Callable[[Path], object], name: str = "file") -> Callable[[bytes], object]:
    """Return a decoder of bytes for one of files."""

    def run(data: bytes) -> None:
        with file_of(data, name) as path:
            read(path)

    return run


# --- under a key ---------------------------------------------------------------------------------


def vector(name: str) -> dict[str, str]:
    """Return a stored example of a format."""
    stored = Path(__file__).parent.parent / "vectors" / name
    content: dict[str, str] = json.loads(stored.read_text())
    return content


KEYRING: Final = new_keyring(ENTROPY)
ROOT_KEY: Final = SecretBytes(ENTROPY.token(32))
PLACE: Final = KEYRING.engine_key("secret", "c4n4ry77")
RECORD: Final = seal_record(
    KEYRING, kind="secret", engine_key=PLACE, generation=1, plaintext=CANARY, entropy=ENTROPY
)
SEAL_FILE: Final = vector("seal_file_v1.json")
UNLOCK_KEY: Final = UnlockKey.parse(SecretBytes(SEAL_FILE["unlock_key"].encode()))
EXPORT: Final = vector("audit_export_v1.json")
EXPORT_KEY: Final = SecretBytes(bytes.fromhex(EXPORT["root_key"]))


def _sealed_record(data: bytes) -> None:
    open_record(KEYRING, kind="secret", engine_key=PLACE, sealed=data)


def _keyring(data: bytes) -> None:
    Keyring.unwrap(ROOT_KEY, data)


def _records(data: bytes) -> None:
    """Decode as every kind, and last as a link of the audit."""
    for kind in Kind:
        with contextlib.suppress(OpenFailed):
            codec.decode(kind, data)
    codec.decode_audit(data)


def _unlock_key(data: bytes) -> None:
    UnlockKey.parse(SecretBytes(data))


def _seal_file(path: Path) -> None:
    open_seal_file(path, UNLOCK_KEY)


def _audit_export(path: Path) -> None:
    for _link in ExportReader(path, EXPORT_KEY).links():
        pass


# --- beside a key --------------------------------------------------------------------------------


class Planted:
    """Stands for a given volume whose manifest another container wrote."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def manifest(self) -> bytes:
        """Return what lies there."""
        return self._content


def _manifest(data: bytes) -> None:
    read_manifest(cast("ServiceMount", Planted(data)))


def _agent_settings(path: Path) -> None:
    agent.config.load(agent.config.Overrides(), path)


def _manager_settings(path: Path) -> None:
    cluster.config.load(path, {})


def _context(path: Path) -> None:
    context_files.ContextFiles(Settings(path.parent.parent, None)).load("admin")


def _identity(path: Path) -> None:
    DataDirectory(path.parent).load_identity()


def _stored_identity() -> bytes:
    own = AgentIdentity(
        "n", SpiffeId("lab.test", IdentityKind.NODE, "n"), KEY, (NODE.der,), AUTHORITY.bundle(),
        ("c4n4ry77:7443",), ("c4n4ry77:7444",),
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="sr-fuzz-") as directory:
        data = DataDirectory(Path(directory))
        data.save_identity(own)
        return (data.path / "identity.json").read_bytes()


# --- typed ---------------------------------------------------------------------------------------


class WrongExitError(AssertionError):
    """The parser ended the process in another way than by its usage line or its help."""


def _words(data: bytes) -> list[str]:
    return data.decode("utf-8", "surrogateescape").split("\n")


def _operator_arguments(data: bytes) -> None:
    """Parse what was typed as the command does, and do nothing of it."""
    words, given = _words(data), argparse.Namespace(context=None)
    try:
        if words[0] not in operator_command.COMMANDS:
            words = operator_command._parse_front(words, given)
        parser = Parser(prog="strongroom")
        import_module(operator_command.COMMANDS[words[0]][0]).add_commands(parser)
        parser.parse_strictly(words[1:], given)
    except SystemExit as ended:
        _check_exit(ended)


def _agent_arguments(data: bytes) -> None:
    words = _words(data)
    verb = words[0] if words[0] in agent_command.VERBS else "get"
    parser = argparse.ArgumentParser(prog="strongroom-agent", allow_abbrev=False)
    agent_command._load(agent_command.VERBS[verb][0]).add_arguments(parser)
    try:
        parser.parse_args(words[1:])
    except SystemExit as ended:
        _check_exit(ended)


def _check_exit(ended: SystemExit) -> None:
    if ended.code not in {ExitCode.DONE, ExitCode.USAGE}:
        raise WrongExitError from ended


_MANAGER_TOML: Final = b'name = "m1"\nadvertise = "10.0.0.1"\napi_listen = "0.0.0.0:7443"\n'
_AGENT_TOML: Final = b'mounts = "kernel"\nsize_bytes = 4096\nmanagers = ["m1:7443"]\n'
_HOOK_TOML: Final = (
    b'url = "https://h:1/c4n4ry77"\nca_file = "ca.crt"\ncertificate_file = "x"\nkey_file = "k"\n'
)
_TOML_WORDS: Final = (b"[" * 3000, b"9" * 5000, b"1979-13-99", b"'''", b"a.b.c=1\n", b"\\u0000")
_CONTEXT: Final = json.dumps(
    {
        "format": 1, "name": "admin", "operator": "o", "role": "admin", "trust_domain": "t",
        "endpoints": ["c4n4ry77:1"], "chain": "c4n4ry77", "control": [], "renew_at": 1.0,
        "not_after": 1e9, "key": "c4n4ry77",
    }
).encode()  # fmt: skip
_TYPED: Final = (
    b"secret\ncreate\ndb\nc4n4ry77",
    b"secret\nrotate\ndb\nfile\n--timeout\n3s",
    b"service\ncreate\nweb\n--secret\ndb,target=x,mode=0400\n--label\na=c4n4ry77",
    b'service\nupdate\nweb\n--add-secret\nsource=db,on-lease-loss=wipe\n--health-cmd\n["a"]',
    b"--context\nc4n4ry77\nnode\nls",
    b"operator\nadd\nme\n--role\nadmin",
    b"token\ncreate\n--ttl\n1h\n--cidr\n10.0.0.0/8",
    b"manager\nrun\n--name\nm1",
    b"audit\nquery\n--since\n2026-01-31T12:00+23:59",
)
_KINDS: Final[tuple[type[msgspec.Struct], ...]] = (*codec.RECORD_TYPES.values(), AuditRecord)
_RECORDS: Final = tuple(filled(kind) for kind in _KINDS)

TARGETS: Final = (
    Target("sealed-record", _sealed_record, (RECORD,)),
    Target("records", _records, _RECORDS),
    Target("padding", padding.unpad, (padding.pad(CANARY), padding.pad(bytes(300)))),
    Target("keyring", _keyring, (KEYRING.wrap(ROOT_KEY, ENTROPY),)),
    Target("unlock-key", _unlock_key, (SEAL_FILE["unlock_key"].encode(),), words=(b"-",)),
    Target("seal-file", on_file(_seal_file), (bytes.fromhex(SEAL_FILE["file"]),)),
    Target("audit-export", on_file(_audit_export), (bytes.fromhex(EXPORT["file"]),)),
    Target("manifest", _manifest, (filled(wire.ServiceAssignment),)),
    # What follows is root's or the operator's own, and may be named to him.
    Target(
        "manager-settings", on_file(_manager_settings), (_MANAGER_TOML,), may_echo=True,
        words=_TOML_WORDS,
    ),
    Target(
        "agent-settings", on_file(_agent_settings), (_AGENT_TOML,), may_echo=True,
        words=_TOML_WORDS,
    ),
    Target("hook-description", on_file(endpoint.read_endpoint), (_HOOK_TOML,), words=_TOML_WORDS),
    Target("context", on_file(_context, "contexts/admin.json"), (_CONTEXT,)),
    Target("node-identity", on_file(_identity, "identity.json"), (_stored_identity(),)),
    Target("operator-arguments", _operator_arguments, _TYPED, may_echo=True, words=(b"\n--",)),
    Target(
        "agent-arguments", _agent_arguments, (b"get\nc4n4ry77", b"run\n--data-dir\nx"),
        may_echo=True, words=(b"\n--",),
    ),
)  # fmt: skip
