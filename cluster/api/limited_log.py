"""Who is over a limit, told in the log: `request.limited`, once a minute for each caller at most.

Owns the table of whom it told of, which is bounded: so many lines a minute and no more, whoever
floods. Only who has a certificate is told of, by it; a stranger's addresses are his to choose, and
would fill the table. It refuses nobody: that is `cluster.api.limits`'.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from cluster.api.peer import caller_of
from cluster.api.refused import Refused
from cluster.system import Clock

log = structlog.get_logger(__name__)

TOLD_EVERY_S: Final = 60.0
TOLD_TOGETHER: Final = 1_000
"""Callers told of within `TOLD_EVERY_S`; of one more nothing is told."""


@dataclass(slots=True)
class LimitedLog:
    """The callers of one listener that were over a limit within the last minute."""

    clock: Clock
    listener: str
    _told_at_s: dict[str, float] = field(default_factory=dict)
    """By the certificate's fingerprint, oldest first."""

    def note(self, scope: Mapping[str, Any], why: Refused) -> None:
        """Tell of the caller of this ASGI scope, unless that was done lately."""
        caller = caller_of(scope)
        if caller is None:
            return
        now_s = self.clock.monotonic_s()
        self._forget_before(now_s - TOLD_EVERY_S)
        if caller.fingerprint in self._told_at_s or len(self._told_at_s) >= TOLD_TOGETHER:
            return
        self._told_at_s[caller.fingerprint] = now_s
        client = scope.get("client")
        log.warning(
            "request.limited",
            listener=self.listener,
            caller=str(caller.identity),
            address=client[0] if client else "",
            reason=why.value,
        )

    def _forget_before(self, moment_s: float) -> None:
        """Drop what was told up to then. Nobody's entry moves, so the oldest is the first."""
        while self._told_at_s:
            oldest = next(iter(self._told_at_s))
            if self._told_at_s[oldest] > moment_s:
                return
            del self._told_at_s[oldest]
