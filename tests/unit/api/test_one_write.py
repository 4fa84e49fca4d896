"""Head and body go out in one piece, and neither waits for the other."""

import asyncio
from typing import cast

import pytest

from cluster.api import one_write
from cluster.api.one_write import OneWrite


class Wire:
    """A port: a transport that keeps what is written, piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.pieces.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
async def answer(wire: Wire) -> OneWrite:
    return OneWrite(cast("asyncio.Transport", wire), asyncio.get_running_loop())


async def test_head_and_body_are_one_piece(answer: OneWrite, wire: Wire) -> None:
    answer.write(b"head")
    answer.write(b"body")
    assert wire.pieces == [b"headbody"]
    await asyncio.sleep(0)
    assert wire.pieces == [b"headbody"]


async def test_a_head_whose_body_is_awaited_goes_ahead(answer: OneWrite, wire: Wire) -> None:
    answer.write(b"head")
    assert wire.pieces == []
    await asyncio.sleep(0)
    assert wire.pieces == [b"head"]
    answer.write(b"chunk")
    answer.write(b"last")
    assert wire.pieces == [b"head", b"chunk", b"last"]


async def test_nothing_is_lost_by_closing(answer: OneWrite, wire: Wire) -> None:
    answer.write(b"head")
    answer.close()
    await asyncio.sleep(0)
    assert (wire.pieces, wire.closed, answer.is_closing()) == ([b"head"], True, True)


async def test_nothing_is_written_to_what_was_cut(answer: OneWrite, wire: Wire) -> None:
    answer.write(b"head")
    wire.close()
    await asyncio.sleep(0)
    assert wire.pieces == []


async def test_an_empty_body_sends_its_head(answer: OneWrite, wire: Wire) -> None:
    answer.write(b"head")
    answer.write(b"")
    assert wire.pieces == [b"head"]


async def test_a_large_body_is_not_copied(answer: OneWrite, wire: Wire) -> None:
    body = bytes(one_write.JOINED_BYTES + 1)
    answer.write(b"head")
    answer.write(body)
    assert wire.pieces == [b"head", body]
    assert wire.pieces[1] is body
