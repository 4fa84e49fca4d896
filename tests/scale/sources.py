"""Who calls from where: an event loop whose connections leave from the address of their task.

A manager bounds what one address may do before it has shown a certificate, so thousands of agents
of one process call from as many addresses of 127.0.0.0/8, as nodes do from their own. The address
is inherited by every task that an agent starts. Nothing of the agent's own code knows of it.
"""

from contextvars import ContextVar
from typing import Any, Final

import uvloop

_PER_BYTE: Final = 250
_FIRST: Final = 10
"""127.0.0.1 is the manager's, and what lies near it is other tests'."""

source_address: ContextVar[str] = ContextVar("source_address", default="")
"""Where connections of this task leave from; empty: where the kernel likes."""


class SourceLoop(uvloop.Loop):
    """An event loop that binds each outgoing connection to `source_address`."""

    # Any: it passes on whatever asyncio's own takes and returns.
    async def create_connection(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Connect from the task's own address."""
        if (address := source_address.get()) and "sock" not in kwargs:
            kwargs.setdefault("local_addr", (address, 0))
        return await super().create_connection(*args, **kwargs)


def address_of(number: int) -> str:
    """Return the loopback address of one of the many, counted from 0."""
    high, low = divmod(number, _PER_BYTE)
    higher, high = divmod(high, _PER_BYTE)
    return f"127.{_FIRST + higher}.{high + 1}.{low + 1}"
