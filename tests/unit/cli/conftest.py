"""A command line in this process, an operator with a context, and a manager with canned answers."""

import base64
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cluster.cli.context_files import Context, ContextFiles
from cluster.cli.main import main
from cluster.cli.settings import Settings
from cluster.pki.ca import issue_leaf
from cluster.pki.csr import check_csr
from cluster.pki.tls import server_context
from cluster.protocol.identity import Kind, SpiffeId
from cluster.protocol.secret_bytes import SecretBytes
from tests.support.authority import ClusterAuthority, Credential
from tests.unit.cli.canned import Canned, admin_manager, tls_manager


@dataclass
class Transcript:
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Transcript]


@pytest.fixture(scope="session")
def authority() -> ClusterAuthority:
    return ClusterAuthority()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory contexts lie in; nothing of the real environment shows through."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("STRONGROOM_CONTEXT", raising=False)
    return tmp_path / "config" / "strongroom"


@pytest.fixture
def files(home: Path) -> ContextFiles:
    return ContextFiles(Settings(home, None))


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command: `run("secret", "ls", stdin=b"...")`."""

    def run_command(*words: str, stdin: bytes = b"") -> Transcript:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            code = main(words)
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return Transcript(int(code), out, err)

    return run_command


@pytest.fixture
def manager(authority: ClusterAuthority) -> Iterator[Canned]:
    """A manager that demands a certificate."""
    served = authority.issue(Kind.MANAGER, "m1")
    context = server_context(served.chain_pem, served.key_pem, authority.control_der)
    with tls_manager(context) as canned:
        yield canned


@pytest.fixture
def second_manager(authority: ClusterAuthority) -> Iterator[Canned]:
    served = authority.issue(Kind.MANAGER, "m2")
    context = server_context(served.chain_pem, served.key_pem, authority.control_der)
    with tls_manager(context) as canned:
        yield canned


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Canned]:
    """A local manager's admin socket."""
    with admin_manager(tmp_path / "admin.sock") as canned:
        yield canned


def context_for(
    authority: ClusterAuthority,
    endpoints: tuple[str, ...],
    *,
    name: str = "lab",
    credential: Credential | None = None,
    renew_in_s: float = 600.0,
    ends_in_s: float = 3600.0,
) -> Context:
    """Return a context of operator alice."""
    held = credential or authority.issue(Kind.OPERATOR, "alice")
    now_s = authority.clock.now().timestamp()
    return Context(
        name=name,
        operator="alice",
        role="admin",
        trust_domain=authority.trust_domain,
        endpoints=endpoints,
        chain_pem=held.chain_pem.decode(),
        control=tuple(base64.b64encode(der).decode() for der in authority.control_der),
        renew_at=now_s + renew_in_s,
        not_after=now_s + ends_in_s,
        key_pem=SecretBytes(held.key_pem),
    )


@pytest.fixture
def context(authority: ClusterAuthority, files: ContextFiles, manager: Canned) -> Context:
    """Alice's way to `manager`."""
    context = context_for(authority, (manager.endpoint,))
    files.save(context)
    return context


def reply_to(
    authority: ClusterAuthority, csr: str, endpoint: str, subject: str = "alice"
) -> dict[str, Any]:
    """Return what a manager answers to an operator's certificate request."""
    key = check_csr(base64.b64decode(csr))
    identity = SpiffeId(authority.trust_domain, Kind.OPERATOR, subject)
    leaf = issue_leaf(
        authority.control, key, identity, timedelta(days=30), authority.clock, authority.entropy
    )
    chain = [leaf.public_bytes(Encoding.DER), *authority.control_der]
    return {
        "name": subject,
        "role": "admin",
        "trust_domain": authority.trust_domain,
        "certificate_chain": [base64.b64encode(der).decode() for der in chain],
        "bundle": authority.bundle().to_dict(),
        "managers": [endpoint],
        "join_addresses": ["127.0.0.1:7444"],
    }
