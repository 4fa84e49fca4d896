"""The ways in: what a token admits, what a newcomer believes, and who is given the root key."""

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cluster.membership import JOIN_PURPOSE, JoinSecrets
from cluster.pki.ca import Authority
from cluster.pki.csr import key_to_pem, make_csr, new_key
from cluster.pki.join_token import JoinToken
from cluster.pki.tls import server_context
from cluster.protocol.errors import OpenFailed
from cluster.protocol.identity import Kind as IdentityKind
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.aead import HpkeKeyPair, hpke_keypair, hpke_open
from cluster.seal.unlock import UnlockKey, unlock_verifier
from cluster.system import SystemEntropy
from tests.support.attacker import Insider, stranger_call
from tests.support.authority import ClusterAuthority
from tests.support.running import (
    SCRIPTS,
    Answer,
    RunningCluster,
    credential_of,
    running_cluster,
)
from tests.support.serving import Receive, Scope, Send, serving


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    with running_cluster(engine="etcd") as cluster:
        yield cluster


def token_for(cluster: RunningCluster, role: str, **fields: object) -> str:
    return str(cluster.ok("POST", "/v1/tokens", {"role": role, **fields})["token"])


def csr() -> str:
    return base64.b64encode(make_csr(new_key())).decode()


def join(cluster: RunningCluster, token: str, name: str, path: str = "/v1/join") -> Answer:
    body = {"token": token, "csr": csr(), **({"name": name} if path == "/v1/join" else {})}
    return stranger_call(cluster, cluster.managers[0], "POST", path, body)


@pytest.mark.threat("T-11")
def test_every_token_that_does_not_admit_reads_the_same(cluster: RunningCluster) -> None:
    """Spent, removed, of another role, for another name or network, of another cluster, guessed."""
    spent = token_for(cluster, "worker")
    assert join(cluster, spent, "first").status == 200
    removed = token_for(cluster, "worker")
    cluster.ok("DELETE", f"/v1/tokens/{JoinToken.parse(removed).token_id}")
    own = JoinToken.parse(token_for(cluster, "worker"))
    foreign = JoinToken(ClusterAuthority().bundle().root_digest(), own.token_id, own.secret)
    guessed = JoinToken(own.root_digest, own.token_id, SecretBytes(bytes(32)))
    unknown = JoinToken.new(own.root_digest, SystemEntropy())
    refused = [
        join(cluster, token, "second")
        for token in (
            spent,
            removed,
            token_for(cluster, "manager"),
            token_for(cluster, "worker", name="third"),
            token_for(cluster, "worker", networks=["10.0.0.0/8"]),
            foreign.format(),
            guessed.format(),
            unknown.format(),
        )
    ]
    assert {(one.status, json.dumps(one.body)) for one in refused} == {
        (403, json.dumps(refused[0].body))
    }
    assert refused[0].body["code"] == "token_refused"
    assert join(cluster, own.format(), "second").status == 200


@pytest.mark.threat("T-11")
def test_expired_token_admits_nobody(cluster: RunningCluster) -> None:
    token = token_for(cluster, "worker", ttl_s=0.001)
    answer = join(cluster, token, "late")
    assert (answer.status, answer.body["code"]) == (403, "token_refused")
    assert join(cluster, token_for(cluster, "worker", ttl_s=60), "late").status == 200


@pytest.mark.threat("T-11")
def test_agent_sends_its_token_to_no_other_cluster(cluster: RunningCluster, tmp_path: Path) -> None:
    """The real command against a server whose bundle is not the token's; ours admits the same."""
    impostor = ClusterAuthority()
    seen: list[bytes] = []

    async def listen(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(str(scope["path"]).encode() + (await receive()).get("body", b""))
        body = json.dumps(impostor.bundle().to_dict()).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    manager = impostor.issue(IdentityKind.MANAGER)
    token = token_for(cluster, "worker")
    with serving(listen, server_context(manager.chain_pem, manager.key_pem, None)) as false:
        refused = agent_join(tmp_path / "false", false.endpoint, token)
    assert refused.returncode != 0
    assert [entry for entry in seen if entry != b"/v1/ca"] == []
    assert seen
    assert token.encode() not in b"".join(seen)
    admitted = agent_join(tmp_path / "true", cluster.managers[0].join, token)
    assert admitted.returncode == 0, admitted.stderr


def agent_join(directory: Path, address: str, token: str) -> subprocess.CompletedProcess[bytes]:
    command = [str(SCRIPTS / "strongroom-agent"), "join", "--name", "newcomer"]
    command += ["--data-dir", str(directory), "--manager", address]
    return subprocess.run(command, input=token.encode(), capture_output=True, check=False)


# --- a manager's way in --------------------------------------------------------------------------


class Joiner:
    """A manager on its way in, in the hands of an attacker."""

    def __init__(self, cluster: RunningCluster, token: str, name: str) -> None:
        self.cluster = cluster
        self.key = new_key()
        self.hpke: HpkeKeyPair = hpke_keypair()
        unlock_key = UnlockKey.parse(SecretBytes(cluster.unlock_key.encode()))
        self.body = {
            "token": token,
            "csr": base64.b64encode(make_csr(self.key)).decode(),
            "hpke_key": base64.b64encode(self.hpke.public_key).decode(),
            "unlock_verifier": base64.b64encode(unlock_verifier(unlock_key)).decode(),
            "name": name,
            "api_address": "127.0.0.1:1",
            "join_address": "127.0.0.1:2",
            "peer_address": "127.0.0.1:3",
        }

    def ask(self, **changed: str) -> Answer:
        body = {**self.body, **changed}
        return stranger_call(
            self.cluster, self.cluster.managers[0], "POST", "/v1/join-manager", body
        )

    def opened(self, answer: Answer) -> JoinSecrets:
        sealed = base64.b64decode(answer.body["sealed"])
        plain = hpke_open(self.hpke.private_key, JOIN_PURPOSE, self.hpke.public_key, sealed)
        return msgspec.msgpack.decode(plain.reveal(), type=JoinSecrets)


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.mark.threat("T-23")
def test_root_key_is_given_to_one_key_once(cluster: RunningCluster) -> None:
    """The joiner's own key opens the reply; asking again gives that very reply and no other."""
    root_key = Insider.of(cluster).contents.root_key.reveal()
    token = token_for(cluster, "manager")
    joiner = Joiner(cluster, token, "m-new")
    # Before the token is spent: a wrong unlock key, a key that is none, a token of another role.
    wrong = unlock_verifier(UnlockKey.generate(SystemEntropy()))
    low_order = b64(bytes(32))
    for changed in (
        {"unlock_verifier": b64(wrong)},
        {"unlock_verifier": ""},
        {"hpke_key": low_order},
        {"hpke_key": b64(b"short")},
        {"token": token_for(cluster, "worker")},
        {"csr": b64(b"junk")},
        {"peer_address": "x" * 10_000},
    ):
        answer = joiner.ask(**changed)
        assert 400 <= answer.status < 500, answer.body
        assert "sealed" not in answer.body
    first = joiner.ask()
    assert first.status == 200, first.body
    assert joiner.opened(first).root_key == root_key
    assert joiner.ask().body == first.body

    # A second joiner with the same token, another HPKE key under the same request, another name.
    thief = Joiner(cluster, token, "m-thief")
    assert thief.ask().body["code"] == "token_refused"
    replayed = joiner.ask(hpke_key=b64(thief.hpke.public_key))
    assert replayed.body.get("sealed") in {None, first.body["sealed"]}
    with pytest.raises(OpenFailed):
        thief.opened(first)
    assert root_key not in json.dumps(first.body).encode()
    assert b64(root_key)[:-4] not in json.dumps(first.body)


@pytest.mark.threat("T-23")
def test_manager_that_is_in_gets_no_keys_again(cluster: RunningCluster) -> None:
    """A real join, watched: its token and key are worth nothing after it."""
    manager = cluster.add_manager()
    cluster.join_manager(manager)
    insider = Insider.of(cluster)
    tls_key = insider.contents.tls_key
    assert tls_key.reveal()
    tokens = cluster.ok("GET", "/v1/tokens")["tokens"]
    assert all(one["role"] != "manager" or one["uses_left"] > 0 for one in tokens)
    log = b"".join(path.read_bytes() for path in cluster.base.rglob("manager.log"))
    for secret in (insider.contents.root_key, insider.contents.engine_ca_key):
        assert secret.reveal() not in log
        assert b64(secret.reveal())[:-4].encode() not in log
    joiner = Joiner(cluster, token_for(cluster, "manager"), manager.name)
    assert joiner.ask().body["code"] == "already_exists"


@pytest.mark.threat("T-23")
def test_joining_manager_reaches_the_engine_through_its_join_only(cluster: RunningCluster) -> None:
    """Its certificate opens two routes; a pending manager is served no secret and no session."""
    joiner = Joiner(cluster, token_for(cluster, "manager"), "m-pending")
    credential = credential_of(joiner.ask().body, key_to_pem(joiner.key))
    for method, path in (("GET", "/v1/secrets"), ("GET", "/v1/managers"), ("POST", "/v1/tokens")):
        body = {"role": "manager"} if method == "POST" else None
        assert cluster.call(method, path, body, credential=credential).status == 403
    assert isinstance(Insider.of(cluster).authority("control"), Authority)
