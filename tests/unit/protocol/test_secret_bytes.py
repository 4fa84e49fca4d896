"""A secret does not show itself by accident."""

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass

import msgspec
import pytest

from cluster.protocol.secret_bytes import SecretBytes

CANARY = b"canary-51c2"


@dataclass
class Holder:
    value: SecretBytes


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        ascii,
        lambda secret: f"{secret}",
        lambda secret: f"{secret!r:>40}",
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031  # as a log call formats
        lambda secret: repr([secret]),
        lambda secret: repr(Holder(secret)),
    ],
)
def test_text_is_redacted(show: Callable[[SecretBytes], str]) -> None:
    text = show(SecretBytes(CANARY))
    assert "redacted" in text
    assert CANARY.decode() not in text


@pytest.mark.parametrize(
    "leak",
    [
        pickle.dumps,
        copy.copy,
        copy.deepcopy,
        json.dumps,
        msgspec.json.encode,
        msgspec.msgpack.encode,
        hash,
        lambda secret: asdict(Holder(secret)),
        bytes,
        list,
    ],
)
def test_every_other_way_out_is_closed(leak: Callable[[SecretBytes], object]) -> None:
    with pytest.raises(TypeError):
        leak(SecretBytes(CANARY))


def test_reveal_is_the_way_out() -> None:
    assert SecretBytes(CANARY).reveal() == CANARY
    assert len(SecretBytes(CANARY)) == len(CANARY)
    assert not SecretBytes(b"")


def test_wipe_leaves_zeros_of_the_same_length() -> None:
    secret = SecretBytes(CANARY)
    secret.wipe()
    assert secret.reveal() == bytes(len(CANARY))


def test_buffer_is_its_own() -> None:
    source = bytearray(CANARY)
    secret = SecretBytes(source)
    source[:] = bytes(len(source))
    assert secret.reveal() == CANARY


def test_equality_is_between_secrets_only() -> None:
    assert SecretBytes(CANARY) == SecretBytes(CANARY)
    assert SecretBytes(CANARY) != SecretBytes(CANARY + b"x")
    assert SecretBytes(CANARY) != CANARY
