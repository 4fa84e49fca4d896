"""What only an unlocked manager can tell: what expires when, and whether its peers' clocks agree.

Reads the view and asks each manager's join listener, which shows its certificate and the time. It
holds no key and shows none.
"""

import asyncio
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final

from cryptography import x509

from cluster.control.issuing import authority_ends, trust_bundle
from cluster.pki.tls import client_context
from cluster.protocol.checks import Check, Strength
from cluster.protocol.endpoints import Deadline, connect_any
from cluster.protocol.errors import ClusterError
from cluster.protocol.https_client import request
from cluster.store.records import ManagerRecord, ManagerState, OperatorRole
from cluster.store.view import View
from cluster.system import Clock

ASK_S: Final = 5.0
DATE_STEP_S: Final = 2.0
"""A server's Date header is cut to the second and made once a second."""
WRONG_CLOCK_S: Final = 60.0
"""Apart by more: short certificates of one manager are not valid yet on another."""
DAY_S: Final = 86_400.0
SOON_S: Final = 7 * DAY_S
AUTHORITY_SOON_S: Final = 90 * DAY_S


@dataclass(frozen=True, slots=True)
class MemberChecks:
    """The checks of one manager, from its view."""

    view: View
    trust_domain: str
    clock: Clock

    async def run(self) -> list[Check]:
        """Return every finding; asks all managers at once, each for `ASK_S` seconds at most."""
        now_s = self.clock.now().timestamp()
        context = client_context(trust_bundle(self.view).control)
        managers = sorted(
            (
                s.record
                for s in self.view.managers.values()
                if s.record.state is ManagerState.ACTIVE
            ),
            key=lambda record: record.name,
        )
        asked = await asyncio.gather(
            *(asyncio.to_thread(self._ask, manager, context) for manager in managers)
        )
        return [*self._recorded(now_s), *(check for checks in asked for check in checks)]

    def _recorded(self, now_s: float) -> Iterator[Check]:
        for role, ends in authority_ends(self.view):
            yield expiry_check(f"{role} authority", ends, now_s, AUTHORITY_SOON_S)
        operators = [s.record for s in self.view.operators.values() if s.record.removed_at is None]
        admins = [one for one in operators if one.role is OperatorRole.ADMIN]
        if not any(one.not_after > now_s for one in admins):
            yield Check(
                "operators",
                Strength.WEAK,
                "no admin's certificate is valid; run `strongroom operator renew NAME` here",
            )
        nodes = [s.record for s in self.view.nodes.values() if s.record.revoked_at is None]
        expired = [one.name for one in nodes if one.not_after <= now_s]
        if expired:
            yield Check(
                "nodes",
                Strength.WEAK,
                f"certificates ran out on {', '.join(sorted(expired)[:5])}"
                f"{f' and {len(expired) - 5} more' if len(expired) > 5 else ''}; "  # noqa: PLR2004  # as above
                "see docs/how-to/expired-nodes.md",
            )

    def _ask(self, manager: ManagerRecord, context: ssl.SSLContext) -> list[Check]:
        """Ask one manager. Blocking."""
        name = f"manager {manager.name}"
        try:
            ends = self._certificate_end(manager, context)
            before_s = self.clock.now().timestamp()
            answer = request(
                [manager.join_address], "GET", "/healthz", context=context,
                trust_domain=self.trust_domain, timeout_s=ASK_S, monotonic_s=self.clock.monotonic_s,
            )  # fmt: skip
            after_s = self.clock.now().timestamp()
        except (ClusterError, OSError) as error:
            why = error.message if isinstance(error, ClusterError) else type(error).__name__
            return [Check(name, Strength.INSECURE, f"cannot be asked: {why}")]
        certificate = expiry_check(f"{name} certificate", ends, after_s, SOON_S)
        return [certificate, clock_check(f"{name} clock", answer.headers, before_s, after_s)]

    def _certificate_end(self, manager: ManagerRecord, context: ssl.SSLContext) -> datetime:
        wait = Deadline(ASK_S, self.clock.monotonic_s)
        connection, _ = connect_any([manager.join_address], context, self.trust_domain, wait)
        with connection:
            shown = connection.getpeercert(binary_form=True)  # type: ignore[attr-defined]  # a TLS socket: a context was given
        return x509.load_der_x509_certificate(shown).not_valid_after_utc


def expiry_check(name: str, ends: datetime, now_s: float, soon_s: float) -> Check:
    """Judge a certificate by the time that is left."""
    left_s = ends.timestamp() - now_s
    if left_s <= 0:
        return Check(name, Strength.INSECURE, f"ran out on {ends:%Y-%m-%d}")
    days = int(left_s // DAY_S)
    if left_s <= soon_s:
        return Check(name, Strength.WEAK, f"{days} days left: it is not renewed in time")
    return Check(name, Strength.SECURE, f"{days} days left")


def clock_check(name: str, headers: Mapping[str, str], before_s: float, after_s: float) -> Check:
    """Judge another clock by the Date header of an answer that came between two moments."""
    try:
        told_s = parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError):
        return Check(name, Strength.WEAK, "the answer tells no time")
    # It was told between `before_s` and `after_s`, and meant up to `DATE_STEP_S` more than it says.
    apart_s = max(told_s - after_s, before_s - (told_s + DATE_STEP_S), 0.0)
    if apart_s == 0:
        return Check(name, Strength.SECURE, "agrees with this manager's")
    side = "ahead of" if told_s > after_s else "behind"
    strength = Strength.INSECURE if apart_s > WRONG_CLOCK_S else Strength.WEAK
    detail = f"at least {apart_s:.0f} s {side} this manager's; run chrony or timesyncd on both"
    return Check(name, strength, detail)
