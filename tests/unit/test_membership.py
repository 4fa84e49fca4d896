"""Managers on their way in: the unlock key comes before the token, the secrets are for one key."""

import base64
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from cluster.api.membership import ManagerJoinRequest
from cluster.control.policy import Principal, Role
from cluster.control.requests import RequestContext
from cluster.engine.etcd import EtcdEngine
from cluster.membership import JOIN_PURPOSE, JoinSecrets, ManagerAdmission, NoAdmission
from cluster.pki.csr import make_csr, new_key
from cluster.protocol.errors import OpenFailed, PermissionDenied, TokenRefused, WrongEngine
from cluster.protocol.identity import Kind, SpiffeId
from cluster.protocol.ids import format_id
from cluster.seal.aead import hpke_keypair, hpke_open
from cluster.seal.unlock import UnlockKey, unlock_verifier
from cluster.store.records import TokenRole
from tests.support.clock import ManualClock
from tests.unit.founded import Founded, founded_cluster


@pytest.fixture
async def founded(tmp_path: Path, clock: ManualClock, seed: int) -> AsyncIterator[Founded]:
    async with founded_cluster(tmp_path, clock, seed) as founded:
        yield founded


def admission(founded: Founded) -> ManagerAdmission:
    """Return the admission; letting a manager in does not touch the engine's members yet."""
    engine = cast("EtcdEngine", founded.started.engine)
    return ManagerAdmission(
        founded.store, founded.cases.managers, engine, founded.founding.contents
    )


async def request_of(
    founded: Founded, hpke_key: bytes, unlock_key: UnlockKey | None = None
) -> ManagerJoinRequest:
    context = RequestContext(admin_of(founded), format_id(founded.entropy.token(16)), "digest")
    made: Any = await founded.cases.tokens.create(
        context, TokenRole.MANAGER, timedelta(minutes=5), uses=1, name="", networks=()
    )
    return ManagerJoinRequest(
        token=made.body["token"],
        csr=make_csr(new_key()),
        hpke_key=hpke_key,
        unlock_verifier=unlock_verifier(unlock_key or founded.unlock_key),
        name="m2",
        api_address="127.0.0.2:7443",
        join_address="127.0.0.2:7444",
        peer_address="127.0.0.2:7445",
    )


def admin_of(founded: Founded) -> Principal:
    """Return the founding operator."""
    identity = SpiffeId(founded.founding.contents.trust_domain, Kind.OPERATOR, "ada")
    return Principal(identity, str(identity), Role.ADMIN)


@pytest.mark.threat("T-23")
async def test_secrets_are_sealed_to_the_joiners_key_alone(founded: Founded) -> None:
    pair = hpke_keypair()
    reply = await admission(founded).admit(await request_of(founded, pair.public_key), "127.0.0.2")
    sealed = base64.b64decode(str(reply["sealed"]))
    opened = hpke_open(pair.private_key, JOIN_PURPOSE, pair.public_key, sealed)
    secrets = msgspec.msgpack.decode(opened.reveal(), type=JoinSecrets)
    root_key = founded.founding.contents.root_key.reveal()
    assert secrets.root_key == root_key
    assert root_key not in msgspec.json.encode(reply)
    other = hpke_keypair()
    with pytest.raises(OpenFailed):
        hpke_open(other.private_key, JOIN_PURPOSE, other.public_key, sealed)


@pytest.mark.control("T-23", without="cluster/seal/aead.py::hpke_seal")
async def test_reply_shows_the_root_key_where_it_is_not_sealed(
    founded: Founded, monkeypatch: pytest.MonkeyPatch
) -> None:
    root_key = founded.founding.contents.root_key.reveal()

    async def replied(number: int) -> bytes:
        asked = msgspec.structs.replace(
            await request_of(founded, hpke_keypair().public_key),
            name=f"m{number}",
            api_address=f"127.0.0.{number}:7443",
            join_address=f"127.0.0.{number}:7444",
            peer_address=f"127.0.0.{number}:7445",
        )
        reply = await admission(founded).admit(asked, "127.0.0.2")
        return base64.b64decode(str(reply["sealed"]))

    assert root_key not in await replied(2)
    monkeypatch.setattr("cluster.membership.hpke_seal", lambda *args: args[-1].reveal())
    assert root_key in await replied(3)


@pytest.mark.threat("T-23")
async def test_repeated_request_gets_the_same_reply_and_a_thief_nothing_he_can_open(
    founded: Founded,
) -> None:
    asked = await request_of(founded, hpke_keypair().public_key)
    first = await admission(founded).admit(asked, "127.0.0.2")
    assert await admission(founded).admit(asked, "127.0.0.2") == first
    thief = msgspec.structs.replace(asked, hpke_key=hpke_keypair().public_key)
    assert await admission(founded).admit(thief, "127.0.0.2") == first, "sealed to the first key"
    thief = msgspec.structs.replace(thief, csr=make_csr(new_key()))
    with pytest.raises(TokenRefused):
        await admission(founded).admit(thief, "127.0.0.2")


async def test_wrong_unlock_key_is_told_before_the_token_is_spent(founded: Founded) -> None:
    pair = hpke_keypair()
    asked = await request_of(founded, pair.public_key, UnlockKey.generate(founded.entropy))
    with pytest.raises(PermissionDenied, match="unlock key"):
        await admission(founded).admit(asked, "127.0.0.2")
    verifier = unlock_verifier(founded.unlock_key)
    right = msgspec.structs.replace(asked, unlock_verifier=verifier)
    assert (await admission(founded).admit(right, "127.0.0.2"))["sealed"]


async def test_membership_is_changed_by_managers_alone(founded: Founded) -> None:
    for principal in (admin_of(founded), Principal(None, "anonymous@x", Role.ANONYMOUS)):
        with pytest.raises(PermissionDenied):
            await admission(founded).promote(principal)


async def test_sqlite_takes_no_further_manager(founded: Founded) -> None:
    alone, principal = NoAdmission(), admin_of(founded)
    asked = await request_of(founded, hashlib.sha256(b"").digest())
    for refused in (alone.admit(asked, "127.0.0.2"), alone.promote(principal)):
        with pytest.raises(WrongEngine, match="store migrate --to etcd"):
            await refused


def test_what_travels_shows_nothing_when_printed() -> None:
    secrets = JoinSecrets(b"root-key-canary", b"", b"engine-key-canary", "c")
    assert "canary" not in repr(secrets)
