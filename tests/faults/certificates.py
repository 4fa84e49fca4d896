"""Looks at the certificates of services again and again: a set is whole, and stays.

Whether a set has run out is judged at rest alone: managers whose clocks jump issue by them, and
a node that reaches no manager keeps what it has.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.faults.observer import read_in_place
from tests.support.running import TRUST_DOMAIN, AgentProcess

LOOK_S: Final = 0.2
FILES: Final = ("tls.crt", "tls.key", "ca.crt")


@dataclass(frozen=True, slots=True)
class CertificateSet:
    """The three files of one set."""

    chain: bytes
    key: bytes
    authority: bytes

    def fault(self, service: str) -> str:
        """Return what is wrong with the set, whatever the time; empty if nothing is."""
        try:
            leaf = x509.load_pem_x509_certificates(self.chain)[0]
            key = load_pem_private_key(self.key, None)
            authorities = x509.load_pem_x509_certificates(self.authority)
        except (ValueError, TypeError, IndexError):
            return "a file of it is not whole"
        if key.public_key() != leaf.public_key():
            return "its key is another certificate's"
        if not any(_signed(leaf, authority) for authority in authorities):
            return "its certificate is from nobody in ca.crt"
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        wanted = [f"spiffe://{TRUST_DOMAIN}/service/{service}"]
        return "" if uris == wanted else f"it names {uris}"

    def is_current(self) -> bool:
        """Return whether it is valid now."""
        leaf = x509.load_pem_x509_certificates(self.chain)[0]
        return leaf.not_valid_before_utc <= datetime.now(UTC) <= leaf.not_valid_after_utc


def _signed(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def look(mount: Path) -> CertificateSet | None:
    """Return the set that is in place; None where there is none.

    All three are read from one directory, as applications are told to.
    """

    def read() -> CertificateSet:
        current = mount / (mount / "..data").readlink()
        chain, key, authority = ((current / name).read_bytes() for name in FILES)
        return CertificateSet(chain, key, authority)

    return read_in_place(mount / "..data", read)


@dataclass(slots=True)
class CertificateObserver:
    """A thread that looks at one service on every agent."""

    agents: Sequence[AgentProcess]
    service: str
    lasting: str
    """The agent on which the set must stay once it was there."""
    faults: list[str] = field(default_factory=list)
    seen: dict[str, set[bytes]] = field(default_factory=dict)
    """Agent -> the certificates it had."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Start looking."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10)

    def _run(self) -> None:
        last: dict[str, CertificateSet] = {}
        try:
            while not self._stop.wait(LOOK_S):
                for agent in list(self.agents):
                    self.look_at(agent, last)
        except Exception as error:  # an observer that broke would see nothing wrong
            self.faults.append(f"the observer broke: {type(error).__name__}: {error}")
            raise

    def look_at(self, agent: AgentProcess, last: dict[str, CertificateSet]) -> None:
        """Look once; `last` holds the set that was in place on each agent."""
        found = look(agent.mount(self.service))
        if found is None:
            if agent.name == self.lasting and self.seen.get(agent.name):
                self.faults.append(f"{agent.name} {self.service}: its certificate is gone")
            return
        if last.get(agent.name) == found:
            return
        last[agent.name] = found
        self.seen.setdefault(agent.name, set()).add(found.chain)
        if fault := found.fault(self.service):
            self.faults.append(f"{agent.name} {self.service}: {fault}")
