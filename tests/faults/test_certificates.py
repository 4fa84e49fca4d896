"""The observer of certificates finds sets that are not one."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from cryptography.hazmat.primitives.serialization import Encoding

from cluster.protocol.identity import Kind
from tests.faults.certificates import CertificateObserver, CertificateSet
from tests.support.authority import ClusterAuthority, Credential
from tests.support.clock import ManualClock
from tests.support.running import TRUST_DOMAIN

AUTHORITY = ClusterAuthority(TRUST_DOMAIN)
ANCHOR = AUTHORITY.workload.certificate.public_bytes(Encoding.PEM)


def set_of(credential: Credential, key_of: Credential | None = None) -> CertificateSet:
    return CertificateSet(credential.chain_pem, (key_of or credential).key_pem, ANCHOR)


def test_half_sets_are_found_and_whole_ones_pass() -> None:
    mine, renewed = (AUTHORITY.issue(Kind.SERVICE, "y0") for _ in range(2))
    assert set_of(mine).fault("y0") == ""
    assert "another certificate's" in set_of(mine, renewed).fault("y0")
    assert "names" in set_of(mine).fault("v0")
    stranger = ClusterAuthority(TRUST_DOMAIN).issue(Kind.SERVICE, "y0")
    assert "from nobody" in set_of(stranger).fault("y0")
    assert "not whole" in CertificateSet(b"", mine.key_pem, ANCHOR).fault("y0")


def test_a_set_that_ran_out_is_not_current() -> None:
    assert set_of(AUTHORITY.issue(Kind.SERVICE, "y0")).is_current()
    over = ClusterAuthority(TRUST_DOMAIN, ManualClock()).issue(Kind.SERVICE, "y0")
    assert not set_of(over).is_current()


def put(mount: Path, name: str, files: CertificateSet) -> None:
    """Publish a set as an agent does."""
    (mount / name).mkdir(parents=True)
    (mount / name / "tls.crt").write_bytes(files.chain)
    (mount / name / "tls.key").write_bytes(files.key)
    (mount / name / "ca.crt").write_bytes(files.authority)
    (mount / "..data").unlink(missing_ok=True)
    (mount / "..data").symlink_to(name)


def test_a_gap_on_the_node_where_it_stays_is_found(tmp_path: Path) -> None:
    """Elsewhere it may go, and before the first set there is nothing to stay."""
    agents = [
        cast("Any", SimpleNamespace(name=name, mount=lambda _service, name=name: tmp_path / name))
        for name in ("n1", "n2")
    ]
    observer = CertificateObserver(agents, "y0", "n1")
    last: dict[str, CertificateSet] = {}

    def look() -> list[str]:
        for agent in agents:
            observer.look_at(agent, last)
        return observer.faults

    assert look() == []
    credentials = [AUTHORITY.issue(Kind.SERVICE, "y0") for _ in range(2)]
    for name in ("n1", "n2"):
        put(tmp_path / name, "..1", set_of(credentials[0]))
    assert look() == []
    put(tmp_path / "n1", "..2", set_of(credentials[0], credentials[1]))
    (tmp_path / "n2" / "..data").unlink()
    assert len(look()) == 1
    (tmp_path / "n1" / "..data").unlink()
    assert "is gone" in look()[1]
