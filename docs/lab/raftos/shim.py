"""What raftos 0.2.6 of 2017 needs to run on today's Python, and nothing that changes what it does.

Runs in raftos' own venv, before anything of raftos is used. Four things went away since: the
argument `loop` of `asyncio.Queue`, `with await lock`, the name `asyncio.futures.InvalidStateError`,
and the argument `encoding` of msgpack's `unpackb`. Its `cryptography==1.5.3` is left out: raftos
then sends its datagrams in clear, which is a choice of its own.
"""

import asyncio
import types
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import msgpack  # type: ignore[import-not-found]  # in raftos' own venv alone


class Lock(asyncio.Lock):
    """A lock that `with await lock` holds."""

    def __await__(self) -> Generator[Any, None, Any]:
        yield from self.acquire().__await__()
        return self._held()

    @contextmanager
    def _held(self) -> Generator[None, None, None]:
        try:
            yield
        finally:
            self.release()


def _queue(loop: object) -> "asyncio.Queue[Any]":  # noqa: ARG001  # as Python 3.9 had it
    return asyncio.Queue()


def _unpackb(packed: bytes, *, use_list: bool, encoding: str) -> Any:  # noqa: ANN401, ARG001
    return msgpack.unpackb(packed, use_list=use_list, raw=False)


def _changed(module: types.ModuleType, **replaced: object) -> types.SimpleNamespace:
    return types.SimpleNamespace(**{**vars(module), **replaced})


def apply() -> None:
    """Give raftos' modules the names they were written for."""
    from raftos import (  # type: ignore[import-not-found]  # noqa: PLC0415  # as above
        replicator,
        serializers,
        server,
        state,
    )

    futures = _changed(asyncio.futures, InvalidStateError=asyncio.InvalidStateError)
    state.asyncio = _changed(asyncio, futures=futures)
    server.asyncio = _changed(asyncio, Queue=_queue)
    replicator.asyncio = _changed(asyncio, Lock=Lock)
    serializers.msgpack = _changed(msgpack, unpackb=_unpackb)
