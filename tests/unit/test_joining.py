"""A manager's way in, asked of a manager of another release: what does not fit is told as that."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cluster.joining import Admitted, Joiner
from cluster.membership import JOIN_PURPOSE, JoinSecrets
from cluster.pki.join_token import JoinToken
from cluster.pki.tls import server_context
from cluster.protocol.errors import MalformedMessage, OpenFailed, PermissionDenied
from cluster.protocol.identity import Kind
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.aead import hpke_seal
from cluster.seal.unlock import UnlockKey
from tests.support.authority import TRUST_DOMAIN, ClusterAuthority
from tests.support.entropy import SeededEntropy
from tests.support.serving import Receive, Scope, Send, serving
from tests.unit.founded import config_in

CANARY = "canary-04c7"
SECRETS = JoinSecrets(CANARY.encode(), b"certificate", b"key", "cluster")


class Elsewhere:
    """A manager whose answer to a join is `changed` from the one that fits."""

    def __init__(self, authority: ClusterAuthority) -> None:
        self.authority = authority
        self.changed: dict[str, object] = {}
        self.status = 200
        self.sealed = msgspec.msgpack.encode(SECRETS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive()).get("body", b"")
        answer = self._reply(body) if scope["method"] == "POST" else self.authority.bundle()
        content = msgspec.json.encode(answer)
        headers = [(b"content-length", str(len(content)).encode())]
        status = self.status if scope["method"] == "POST" else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _reply(self, body: bytes) -> dict[str, object]:
        asked: dict[str, Any] = msgspec.json.decode(body)
        key = msgspec.convert(asked["hpke_key"], bytes)
        sealed = hpke_seal(key, JOIN_PURPOSE, key, SecretBytes(self.sealed))
        fits = {
            "manager_id": "m" * 26,
            "trust_domain": TRUST_DOMAIN,
            "sealed": sealed,
            "certificate_chain": self.authority.control_der,
            "managers": ["127.0.0.1:7443"],
        }
        return {**fits, **self.changed}


@contextmanager
def answering(elsewhere: Elsewhere) -> Iterator[str]:
    """Yield the address at which a manager answers."""
    leaf = elsewhere.authority.issue(Kind.MANAGER)
    context = server_context(leaf.chain_pem, leaf.key_pem, None)
    with serving(elsewhere, context) as running:
        yield running.endpoint


def ask(directory: Path, elsewhere: Elsewhere, seed: int) -> Admitted:
    """Join, as a new manager does."""
    return ask_with(Joiner(config_in(directory), SeededEntropy(seed)), elsewhere, seed)


def ask_with(joiner: Joiner, elsewhere: Elsewhere, seed: int) -> Admitted:
    """Join, with the token and the unlock key that a seed gives."""
    with answering(elsewhere) as address:
        return joiner.ask(*credentials(elsewhere, seed), (address,))


def credentials(elsewhere: Elsewhere, seed: int) -> tuple[JoinToken, UnlockKey]:
    """Return the token and the unlock key that a seed gives."""
    entropy = SeededEntropy(seed)
    digest = elsewhere.authority.bundle().root_digest()
    return JoinToken.new(digest, entropy), UnlockKey.generate(entropy)


def test_an_answer_that_fits_lets_in(tmp_path: Path, seed: int) -> None:
    admitted = ask(tmp_path, Elsewhere(ClusterAuthority()), seed)
    assert admitted.contents.root_key.reveal() == CANARY.encode()


def test_who_has_joined_already_is_told_to_unlock(tmp_path: Path, seed: int) -> None:
    elsewhere = Elsewhere(ClusterAuthority())
    joiner = Joiner(config_in(tmp_path), SeededEntropy(seed))
    joiner.complete(ask_with(joiner, elsewhere, seed))
    with pytest.raises(PermissionDenied, match="strongroom unlock"):
        joiner.ask(*credentials(elsewhere, seed), ("127.0.0.1:1",))


@pytest.mark.parametrize("let_in", [False, True])
def test_who_was_let_in_before_is_told_that_he_may_have_joined(
    tmp_path: Path, seed: int, let_in: bool
) -> None:
    """The cluster forgets his join at its last step; he may have been killed before he noted it."""
    elsewhere = Elsewhere(ClusterAuthority())
    joiner = Joiner(config_in(tmp_path), SeededEntropy(seed))
    if let_in:
        ask_with(joiner, elsewhere, seed)
    elsewhere.status, elsewhere.changed = 403, {"code": "token_refused", "message": "no"}
    with pytest.raises(PermissionDenied) as refused:
        ask_with(joiner, elsewhere, seed)
    assert ("strongroom unlock" in refused.value.message) is let_in
    assert joiner.config.seal_file.exists() is let_in


@pytest.mark.parametrize(
    "changed",
    [
        {"manager_id": None},
        {"managers": "127.0.0.1:7443"},
        {"sealed": "%%%"},
        {"certificate_chain": ["AAAA"]},
        {"certificate_chain": [{"of": "another release"}]},
    ],
)
def test_an_answer_of_another_release_is_told_as_that(
    tmp_path: Path, seed: int, changed: dict[str, object]
) -> None:
    elsewhere = Elsewhere(ClusterAuthority())
    elsewhere.changed = changed
    with pytest.raises(MalformedMessage, match="run the same release here as there"):
        ask(tmp_path, elsewhere, seed)


@pytest.mark.parametrize("sealed", [[CANARY], {"root_key": CANARY}, [CANARY, 1, 2, 3]])
def test_secrets_of_another_release_are_not_quoted(
    tmp_path: Path, seed: int, sealed: object
) -> None:
    elsewhere = Elsewhere(ClusterAuthority())
    elsewhere.sealed = msgspec.msgpack.encode(sealed)
    with pytest.raises(MalformedMessage, match="run the same release here as there") as told:
        ask(tmp_path, elsewhere, seed)
    assert told.value.__suppress_context__
    assert CANARY not in str(told.value)


def test_secrets_for_another_key_are_not_opened(tmp_path: Path, seed: int) -> None:
    elsewhere = Elsewhere(ClusterAuthority())
    elsewhere.changed = {"sealed": "AAAA"}
    with pytest.raises(OpenFailed):
        ask(tmp_path, elsewhere, seed)
