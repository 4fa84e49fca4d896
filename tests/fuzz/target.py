"""A decoder under fuzzing, and the property that holds for it whatever it is given.

Only the declared errors come out, and what a log could show of them (text, cause, context) holds
nothing of the input. The input's part that must not be seen is `CANARY`: every mutation carries it.
"""

import contextlib
import io
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cluster.protocol.errors import ClusterError

CANARY: Final = b"c4n4ry77"
"""As short as a bad password, and letters that every text format takes in a name or a value."""


class EchoedError(AssertionError):
    """An error repeats what it was given."""


@dataclass(frozen=True)
class Target:
    """One decoder. `run` takes any bytes; `seeds` are valid, or nearly."""

    name: str
    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    declared: tuple[type[BaseException], ...] = (ClusterError,)
    may_echo: bool = False
    """For what a person typed at his own terminal, or root wrote in a file of settings."""
    words: tuple[bytes, ...] = field(default=())
    """What mutations insert: the format's own vocabulary."""

    def check(self, data: bytes) -> bool:
        """Return whether the data was taken; raise whatever it must not come to."""
        try:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                self.run(data)
        except self.declared as error:
            if not self.may_echo and CANARY.decode() in shown(error):
                raise EchoedError(f"{self.name} repeats its input") from error
            return False
        return True


def shown(error: BaseException) -> str:
    """Return all that a traceback shows of an error, lower case."""
    lines = traceback.TracebackException.from_exception(error, capture_locals=False)
    return f"{''.join(lines.format())} {error!r} {error.args!r}".lower()
