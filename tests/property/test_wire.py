"""The session's messages: what was encoded comes back; anything else is MalformedMessage."""

from typing import get_args

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.protocol import wire
from cluster.protocol.errors import MalformedMessage
from cluster.protocol.wire import FromAgent, FromManager, Value, Values

INT64 = st.integers(min_value=-(2**63), max_value=2**63 - 1)
st.register_type_strategy(int, INT64)
st.register_type_strategy(float, st.floats(allow_nan=False))
st.register_type_strategy(str, st.text(max_size=20))
st.register_type_strategy(bytes, st.binary(max_size=20))

CANARY = b"canary-88d1"


def messages(union: object) -> st.SearchStrategy[msgspec.Struct]:
    return st.one_of([st.from_type(kind) for kind in get_args(union)])


@given(message=messages(FromAgent))
def test_agents_message_survives_the_wire(message: FromAgent) -> None:
    assert wire.decode_from_agent(wire.encode(message)) == message


@given(message=messages(FromManager))
def test_managers_message_survives_the_wire(message: FromManager) -> None:
    assert wire.decode_from_manager(wire.encode(message)) == message


BAD_UTF8 = msgspec.msgpack.encode({"type": "resync", "held": []}).replace(b"resync", b"\xff" * 6)
DEEP = b"\x91" * 10_000


@example(data=b"")
@example(data=BAD_UTF8)
@example(data=DEEP)
@given(data=st.binary(max_size=200))
def test_noise_is_malformed_and_nothing_else(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        wire.decode_from_agent(data)
    with pytest.raises(MalformedMessage):
        wire.decode_from_manager(data)


@given(message=messages(FromAgent), place=st.integers(min_value=0), byte=st.integers(0, 255))
def test_damaged_message_is_malformed_or_another(message: FromAgent, place: int, byte: int) -> None:
    data = bytearray(wire.encode(message))
    data[place % len(data)] = byte
    try:
        wire.decode_from_agent(bytes(data))
    except MalformedMessage:
        return


@given(message=messages(FromAgent))
def test_one_ends_message_is_not_taken_from_the_other(message: FromAgent) -> None:
    with pytest.raises(MalformedMessage):
        wire.decode_from_manager(wire.encode(message))


def test_oversized_message_is_refused_unread() -> None:
    with pytest.raises(MalformedMessage):
        wire.decode_from_agent(bytes(wire.MAX_AGENT_MESSAGE_BYTES + 1))
    with pytest.raises(MalformedMessage):
        wire.decode_from_manager(bytes(wire.MAX_MESSAGE_BYTES + 1))


def test_value_is_not_shown() -> None:
    values = Values((Value("id", 1, CANARY),))
    assert CANARY.decode() not in repr(values)


def test_error_does_not_quote_the_message() -> None:
    data = wire.encode(Values((Value("id", 1, CANARY),)))
    with pytest.raises(MalformedMessage) as caught:
        wire.decode_from_agent(data)
    assert CANARY.decode() not in f"{caught.value} {caught.value.__cause__}"
