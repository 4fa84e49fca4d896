"""Managers on their way in."""

import base64
from datetime import timedelta

import pytest
from cryptography import x509

from cluster.control.manager_removal import ManagerRemoval
from cluster.control.managers import ManagerAddresses
from cluster.control.policy import Principal, Role
from cluster.pki import csr
from cluster.pki.join_token import JoinToken
from cluster.protocol.errors import (
    AlreadyExists,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    TokenRefused,
)
from cluster.protocol.identity import Kind, SpiffeId
from cluster.protocol.ids import ManagerId
from cluster.store.records import ManagerState, TokenRole
from tests.unit.control.lab import AUDITOR, MANAGER, TRUST_DOMAIN, ControlLab

ADDRESSES = ManagerAddresses("127.0.0.2:7443", "m2.example:7444", "127.0.0.2:2380")


class _Joiner:
    """A manager that joins, and what was sealed for it."""

    def __init__(self, lab: ControlLab, token: JoinToken) -> None:
        self.lab = lab
        self.token = token
        self.request = csr.make_csr(csr.new_key())
        self.sealed_for: list[bytes] = []

    async def join(self, name: str = "second") -> dict[str, object]:
        def seal(public_key: bytes) -> bytes:
            self.sealed_for.append(public_key)
            return b"sealed to " + public_key

        return dict(
            await self.lab.managers.join(
                self.token, self.request, b"hpke key", name, ADDRESSES, seal, "127.0.0.2"
            )
        )

    def principal(self, reply: dict[str, object]) -> Principal:
        chain = reply["certificate_chain"]
        assert isinstance(chain, list)
        leaf = x509.load_der_x509_certificate(base64.b64decode(chain[0]))
        serial = format(leaf.serial_number, "x")
        return self.lab.principal(Kind.MANAGER, str(reply["manager_id"]), serial)


@pytest.fixture
async def joiner(lab: ControlLab) -> _Joiner:
    return _Joiner(lab, await lab.token(TokenRole.MANAGER))


async def test_joined_manager_is_pending_until_it_caught_up(
    lab: ControlLab, joiner: _Joiner
) -> None:
    reply = await joiner.join()
    assert base64.b64decode(str(reply["sealed"])) == b"sealed to hpke key"
    manager_id = ManagerId(str(reply["manager_id"]))
    pending = joiner.principal(reply)
    assert pending.role is Role.JOINING_MANAGER
    with pytest.raises(PermissionDenied):
        await lab.managers.activate(pending, ManagerId("m1"))
    await lab.managers.activate(pending, manager_id)
    assert joiner.principal(reply).role is Role.MANAGER
    assert {m["state"] for m in lab.managers.list(AUDITOR)} == {"active"}


@pytest.mark.threat("T-23")
async def test_repeated_join_gets_the_same_reply_while_pending(
    lab: ControlLab, joiner: _Joiner
) -> None:
    first = await joiner.join()
    assert await joiner.join() == first
    assert joiner.sealed_for == [b"hpke key"]


@pytest.mark.threat("T-23")
async def test_active_manager_never_gets_the_keys_again(lab: ControlLab, joiner: _Joiner) -> None:
    reply = await joiner.join()
    await lab.managers.activate(joiner.principal(reply), ManagerId(str(reply["manager_id"])))
    with pytest.raises(TokenRefused):
        await joiner.join()
    assert len(joiner.sealed_for) == 1


@pytest.mark.threat("T-23")
async def test_keys_are_not_sealed_for_whoever_the_token_does_not_admit(
    lab: ControlLab,
) -> None:
    for token in (await lab.token(), await lab.token(TokenRole.MANAGER, name="other")):
        joiner = _Joiner(lab, token)
        with pytest.raises(TokenRefused):
            await joiner.join()
        assert joiner.sealed_for == []


async def test_manager_that_never_came_is_forgotten(lab: ControlLab, joiner: _Joiner) -> None:
    await joiner.join()
    lab.clock.advance(timedelta(hours=1, seconds=1))
    await lab.settle(lab.duty(), rounds=1)
    states = [stored.record.state for stored in lab.view.managers.values()]
    assert states == [ManagerState.ACTIVE]
    await _Joiner(lab, await lab.token(TokenRole.MANAGER)).join()


async def test_certificate_serves_on_the_addresses_of_the_record(
    lab: ControlLab, joiner: _Joiner
) -> None:
    reply = await joiner.join()
    manager_id = ManagerId(str(reply["manager_id"]))
    await lab.managers.activate(joiner.principal(reply), manager_id)
    issued = await lab.managers.renew(
        joiner.principal(reply), manager_id, csr.make_csr(csr.new_key())
    )
    leaf = x509.load_der_x509_certificate(issued.chain[0])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["m2.example"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.2"]


async def test_place_of_another_manager_is_not_joined_from(
    lab: ControlLab, joiner: _Joiner
) -> None:
    """Its member still counts in the engine; the token is not spent on the attempt."""
    reply = await joiner.join()
    manager_id = ManagerId(str(reply["manager_id"]))
    await lab.managers.activate(joiner.principal(reply), manager_id)
    newcomer = _Joiner(lab, await lab.token(TokenRole.MANAGER))
    with pytest.raises(AlreadyExists, match="strongroom manager rm second"):
        await newcomer.join("third")
    removal = ManagerRemoval(lab.requests)
    await removal.begin(lab.context(), "second", frozenset({ManagerId(MANAGER)}))
    with pytest.raises(AlreadyExists):
        await newcomer.join("third")
    identity = SpiffeId(TRUST_DOMAIN, Kind.MANAGER, MANAGER)
    await removal.finish(Principal(identity, str(identity), Role.MANAGER), manager_id)
    assert (await newcomer.join("second"))["manager_id"] != manager_id


@pytest.mark.threat("T-44")
async def test_manager_that_is_to_go_renews_nothing(lab: ControlLab, joiner: _Joiner) -> None:
    reply = await joiner.join()
    manager_id = ManagerId(str(reply["manager_id"]))
    await lab.managers.activate(joiner.principal(reply), manager_id)
    itself = joiner.principal(reply)
    removal = ManagerRemoval(lab.requests)
    await removal.begin(lab.context(), "second", frozenset({ManagerId(MANAGER)}))
    with pytest.raises(NotFound):
        await lab.managers.renew(itself, manager_id, csr.make_csr(csr.new_key()))


@pytest.mark.parametrize("address", ["", "host", "host:", "host:0", "host:70000", ":7443"])
def test_addresses_are_checked(address: str) -> None:
    with pytest.raises(InvalidRequest):
        ManagerAddresses(address, "h:1").check()
