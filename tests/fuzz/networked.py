"""Decoders of what comes over a network or a local socket."""

import base64
import contextlib
import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Final, get_args

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent import local_call, local_server
from agent.identity import check_leaf
from cluster.cli import answers
from cluster.pki import csr
from cluster.pki.join_token import JoinToken
from cluster.pki.node_envelope import EnvelopeSuite, NodeKeys, Recipient, staged
from cluster.pki.old_leaf import OldLeaf
from cluster.pki.received_leaf import check_received
from cluster.pki.tls import caller_from_der
from cluster.pki.trust_bundle import TrustBundle
from cluster.protocol import https_client, ids, wire
from cluster.protocol.endpoints import Deadline
from cluster.protocol.identity import Kind, SpiffeId
from cluster.protocol.loopback import parse_loopback_url
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.undecodable import UNDECODABLE
from cluster.seal.aead import hpke_keypair, hpke_open, hpke_seal
from tests.fuzz.messages import filled
from tests.fuzz.target import CANARY, Target
from tests.support.authority import ClusterAuthority
from tests.support.entropy import SeededEntropy

ENTROPY: Final = SeededEntropy(5)
AUTHORITY: Final = ClusterAuthority()
NODE: Final = AUTHORITY.issue(Kind.NODE, "node-c4n4ry77")
KEY: Final = csr.key_from_pem(NODE.key_pem)
REQUEST: Final = csr.make_csr(KEY)
DER_WORDS: Final = (
    bytes.fromhex("020102"),  # version 2 of something that has none
    bytes.fromhex("06032b6570"),  # Ed25519
    bytes.fromhex("06082a8648ce3d030107"),  # P-256
    bytes.fromhex("06052b81040022"),  # P-384
    bytes.fromhex("0603551d11"),  # subjectAltName
    bytes.fromhex("a3023000"),
    bytes.fromhex("86"),
    bytes.fromhex("3080"),
)


def text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    """Return a decoder of bytes for one of texts."""
    return lambda data: parse(data.decode("utf-8", "replace"))


def _bundle(data: bytes) -> None:
    """Take a server's list of authorities, pinned by the true root's digest."""
    try:
        content = msgspec.json.decode(data)
    except UNDECODABLE:
        content = {"roots": [base64.b64encode(AUTHORITY.root_der).decode()]}
        content |= {"control": [base64.b64encode(data).decode()], "workload": []}
    TrustBundle.from_dict(content).verify(AUTHORITY.bundle().root_digest())


def _received(data: bytes) -> None:
    check_received((data,), NODE.key_pem, AUTHORITY.control_der)


def _own_leaf(data: bytes) -> None:
    check_leaf((data,), KEY, AUTHORITY.bundle())


def _return(data: bytes) -> None:
    """Take a signature that should be an old key's over a request."""
    csr.verify_return_request(KEY.public_key(), REQUEST, data)


def _old_leaf(data: bytes) -> None:
    leaf = OldLeaf.parse(data)
    leaf.signed_by(AUTHORITY.control_der)
    _ = leaf.serial, leaf.key_digest, leaf.expired_at


NODE_KEYS: Final = NodeKeys.generate("node")
_OFFERED: Final = NODE_KEYS.public_keys()
_SEALED: Final = Recipient.choose(_OFFERED, "node", "session").seal(
    [(wire.VersionKey("s", 1), SecretBytes(CANARY))], ENTROPY
)


def _envelope(data: bytes) -> None:
    """Open a message of values, as the mount does."""
    message = wire.decode_from_manager(data)
    if isinstance(message, wire.Values):
        with NODE_KEYS.opening() as open_value:
            for value in staged(message, EnvelopeSuite.HYBRID.value, "session").values():
                open_value(value)


def _offered_keys(data: bytes) -> None:
    """Choose among the keys that a hostile node offers, and seal to one."""
    message = wire.decode_from_agent(data)
    if isinstance(message, wire.Hello):
        recipient = Recipient.choose(message.envelope_keys, "node", "session")
        recipient.seal([(wire.VersionKey("s", 1), SecretBytes(b"value"))], ENTROPY)


_PAIR: Final = hpke_keypair()
_MESSAGE: Final = hpke_seal(_PAIR.public_key, "purpose", b"context", SecretBytes(CANARY))


def _hpke(data: bytes) -> None:
    hpke_open(_PAIR.private_key, "purpose", b"context", data)


def _answer(data: bytes) -> None:
    """Read what an impostor answers on a socket, as the command line and joining agents do."""
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def answer() -> None:
            with contextlib.suppress(OSError):
                theirs.sendall(data)
                theirs.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=answer)
        sender.start()
        try:
            exchange = https_client._Exchange(ours, Deadline(10, None), safe=True)
            exchange.send("GET", "/v1/ca", [("host", "x")], None)
            status, headers = exchange.read_head()
            answers.parse(https_client.LineStream(status, headers, exchange.chunks()).read())
        finally:
            ours.close()
            sender.join()


HELLO: Final = wire.Hello((1,), "0", "c4n4ry77", "kernel", "secure", (), None, _OFFERED)
FROM_AGENT: Final = tuple(filled(kind) for kind in get_args(wire.FromAgent))
FROM_MANAGER: Final = tuple(filled(kind) for kind in get_args(wire.FromManager))
_TOKEN: Final = JoinToken.new("ab" * 32, ENTROPY).format().encode()
_JSON: Final = b'{"v":1,"op":"get","name":"c4n4ry77"}\n'
_HTTP: Final = (
    b'HTTP/1.1 200 OK\r\ncontent-length: 17\r\nx: c4n4ry77\r\n\r\n{"a": "c4n4ry77"}',
    b'HTTP/1.1 404 no\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"a":\r\n3\r\n 1}\r\n0\r\n\r\n',
    b"HTTP/1.1 100 c4n4ry77\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{}",
)
_BUNDLE: Final = msgspec.json.encode(AUTHORITY.bundle())
_LEAVES: Final = (
    NODE.der,
    AUTHORITY.forge([f"spiffe://lab.test/node/{CANARY.decode()}"]).der,
    AUTHORITY.forge(["spiffe://lab.test/node/one", "https://c4n4ry77"]).der,
    AUTHORITY.forge([]).der,
    AUTHORITY.root_der,
    AUTHORITY.issue(Kind.SERVICE, "web", ttl=timedelta(minutes=1)).der,
)
_SIGNATURE: Final = csr.sign_return_request(KEY, REQUEST)
_PUBLIC: Final = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

TARGETS: Final = (
    Target("wire-from-agent", wire.decode_from_agent, FROM_AGENT),
    Target("wire-from-manager", wire.decode_from_manager, FROM_MANAGER),
    Target("envelope", _envelope, (wire.encode(_SEALED),)),
    Target("envelope-keys", _offered_keys, (wire.encode(HELLO),)),
    Target("hpke", _hpke, (_MESSAGE,)),
    Target("join-token", text(JoinToken.parse), (_TOKEN,), words=(b"SRTKN-1-", b"-")),
    Target("csr", csr.check_csr, (REQUEST, REQUEST + CANARY, _PUBLIC), words=DER_WORDS),
    Target("private-key", csr.key_from_pem, (NODE.key_pem,), words=(b"RSA ", b"ENCRYPTED ")),
    Target("return-signature", _return, (_SIGNATURE,)),
    Target("old-leaf", _old_leaf, _LEAVES, words=DER_WORDS),
    Target("received-leaf", _received, _LEAVES, words=DER_WORDS),
    Target("own-leaf", _own_leaf, _LEAVES, words=DER_WORDS),
    Target("caller", caller_from_der, _LEAVES, words=DER_WORDS),
    Target("trust-bundle", _bundle, (_BUNDLE, *_LEAVES, *AUTHORITY.control_der), words=DER_WORDS),
    Target("spiffe-id", text(SpiffeId.parse), (b"spiffe://lab.test/node/c4n4ry77",)),
    Target("revision", text(ids.Revision.parse), (b"17.abcdefg.4", b"1.c4n4ry77.1")),
    Target("name", text(ids.check_name), (b"db-c4n4ry77",)),
    Target("service-name", text(ids.check_service_name), (b"web-c4n4ry77",)),
    Target("target-name", text(ids.check_target), (b"c4n4ry77.pem",)),
    Target(
        "loopback-url",
        text(parse_loopback_url),
        (b"http://localhost:80/c4n4ry77", b"http://[::1]/?c4n4ry77"),
        words=(b"@", b"#", b"user@", b"%0d%0a"),
    ),
    Target("local-request", local_server._decode, (_JSON,)),
    Target(
        "local-answer",
        local_call._parse_header,
        (b'{"v":1,"ok":true,"size":5}\n', b'{"v":1,"ok":false,"code":"x","message":"y"}\n'),
        declared=(ValueError, local_call.Refused),
        may_echo=True,  # the agent is who the application trusts
    ),
    Target("manager-answer", _answer, _HTTP, words=(b"\r\n", b"chunked", b"HTTP/1.1 200 OK\r\n")),
)
