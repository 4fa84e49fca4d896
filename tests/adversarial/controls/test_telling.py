"""Controls of what is told: values in logs and texts, names in metrics, events of others."""

import io
from collections.abc import Callable

import pytest
import structlog
from cryptography import x509

from agent.redaction import patterns_of, redacted
from cluster import metrics
from cluster.control import callers
from cluster.control.events import Event, Events
from cluster.metrics import Metrics
from cluster.pki import csr
from cluster.pki.join_token import JoinToken
from cluster.protocol.errors import InvalidRequest, Unauthenticated
from cluster.protocol.identity import Caller, Kind, SpiffeId
from cluster.protocol.ids import TokenId
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.unlock import UnlockKey
from cluster.store.records import ManagerRecord, ManagerState
from tests.unit.control.lab import DEPLOYER, TRUST_DOMAIN
from tests.unit.control.test_events import brief, now, told
from tests.unit.dispatcher.lab import DispatchLab

CANARY = "canary-7f3a"


def logged(value: object) -> str:
    """Return the line that an event with this field makes."""
    text = io.StringIO()
    log = structlog.wrap_logger(
        structlog.PrintLogger(text), processors=[structlog.processors.JSONRenderer()]
    )
    log.info("secret.stored", value=value)
    return text.getvalue()


@pytest.mark.parametrize(
    "tell", [logged, repr, str, lambda value: f"{value}", lambda value: f"no: {[value]!r}"]
)
@pytest.mark.control("T-18", without="cluster/protocol/secret_bytes.py::SecretBytes")
def test_value_is_in_no_text(tell: Callable[[object], str]) -> None:
    """The same value as plain bytes is in every one of these texts."""
    assert CANARY not in tell(SecretBytes(CANARY.encode()))
    assert CANARY in tell(CANARY.encode())


@pytest.mark.control("T-49", without="cluster/protocol/secret_bytes.py::SecretBytes")
@pytest.mark.parametrize(
    "tell", [logged, repr, lambda taken: str(ValueError(taken)), lambda taken: f"{taken}"]
)
def test_token_and_unlock_key_are_in_no_text(
    tell: Callable[[object], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken in as a manager takes them, then told by whoever forgets himself."""
    secret = SecretBytes(CANARY.ljust(32, "x").encode())
    token_text = JoinToken("0" * 64, TokenId("a" * 26), secret).format()

    def told() -> str:
        key = UnlockKey.parse(UnlockKey(secret).text())
        token = JoinToken.parse(token_text)
        assert key.key == token.secret == secret
        return "".join(tell(one) for one in (key, [token], token, token.secret))

    needles = {CANARY, token_text.rpartition("-")[2], UnlockKey(secret).text().reveal().decode()}
    found = told()
    assert "<redacted>" in found
    assert [needle for needle in needles if needle in found] == []
    monkeypatch.setattr(SecretBytes, "__repr__", lambda self: repr(self.reveal()))
    monkeypatch.setattr(SecretBytes, "__str__", lambda self: repr(self.reveal()))
    assert told().count(CANARY) == 2, "the unlock key and the token's secret"


@pytest.mark.control("T-45", without="cluster/metrics.py::Metrics")
def test_caller_chooses_no_label(monkeypatch: pytest.MonkeyPatch) -> None:
    def scraped() -> bytes:
        counted = Metrics()
        counted.request("join", CANARY, "/v1/join", 405, 0.0)
        return counted.render()

    assert CANARY.encode() not in scraped()
    monkeypatch.setattr(metrics, "METHODS", metrics.METHODS | {CANARY})
    assert CANARY.encode() in scraped()


@pytest.mark.control("T-50", without="cluster/control/events.py::Events")
async def test_deployer_hears_of_his_own(lab: DispatchLab, monkeypatch: pytest.MonkeyPatch) -> None:
    events, since = Events(lab.requests), now(lab)
    await lab.secret("theirs", team="blue")
    assert brief(await told(events, since, DEPLOYER)) == []
    monkeypatch.setattr(Event, "reaches", lambda *_: True)
    assert ("secret", "create", "theirs") in brief(await told(events, since, DEPLOYER))


@pytest.mark.control("T-44", without="cluster/control/callers.py::principal_of")
async def test_removed_manager_is_nobody(lab: DispatchLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the look at its state, its certificate still makes it a manager."""
    await lab.write(
        ManagerRecord(
            id="m2", name="second", state=ManagerState.REMOVING, api_address="h:1",
            join_address="h:2", joined_at=0.0, serials=("1",),
        )
    )  # fmt: skip
    itself = Caller(SpiffeId(TRUST_DOMAIN, Kind.MANAGER, "m2"), 1, "f", 9e9)
    with pytest.raises(Unauthenticated):
        callers.principal_of(itself, lab.view)
    monkeypatch.setattr(callers, "ManagerState", _Blind)
    assert callers.principal_of(itself, lab.view).name == str(itself.identity)


class _Blind:
    """A state in which every manager is active."""

    ACTIVE = ManagerState.REMOVING
    PENDING = ManagerState.PENDING
    REMOVING = None
    REMOVED = None


@pytest.mark.control("T-48", without="cluster/pki/csr.py::check_csr")
def test_request_proves_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the signature looked at, a request is taken for somebody else's key."""
    own = csr.make_csr(csr.new_key())
    forged = own[:-1] + bytes([own[-1] ^ 1])
    with pytest.raises(InvalidRequest):
        csr.check_csr(forged)
    load = x509.load_der_x509_csr

    class Unlooked:
        def __init__(self, der: bytes) -> None:
            self._request = load(der)
            self.is_signature_valid = True

        def public_key(self) -> object:
            return self._request.public_key()

    class X509:
        load_der_x509_csr = Unlooked

    monkeypatch.setattr(csr, "x509", X509)
    assert csr.public_key_digest(csr.check_csr(forged))


@pytest.mark.control("T-54", without="agent/redaction.py::redacted")
def test_value_is_taken_out_of_what_a_service_prints() -> None:
    line = b"connecting with " + CANARY.encode()
    assert CANARY.encode() not in redacted(line, patterns_of([CANARY.encode()]))
    assert CANARY.encode() in redacted(line, ())
