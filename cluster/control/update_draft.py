"""How changes go out and how a service is asked whether it works, as an operator writes it. Pure.

Owns the limits of update policies and health checks; what is done with them is the rollouts' and
the agents' business. Source: DESIGN 6, docs/how-to/health-checks.md.
"""

from typing import Final

import msgspec

from cluster.control.commands import check_command
from cluster.control.requests import JSON
from cluster.protocol.errors import InvalidRequest
from cluster.protocol.loopback import parse_loopback_url
from cluster.store.records import FailureAction, Health, UpdatePolicy

MAX_TASKS: Final = 10_000
LONGEST_S: Final = 86_400.0
MIN_INTERVAL_S: Final = 0.5
MAX_INTERVAL_S: Final = 3600.0
MIN_TIMEOUT_S: Final = 0.1
MAX_TIMEOUT_S: Final = 300.0
MAX_RETRIES: Final = 100
MIN_REPLACE_S: Final = 10.0


class HealthDraft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A service's own check: exactly one of command, url and process."""

    command: tuple[str, ...] = ()
    url: str = ""
    process: bool = False
    interval_s: float = 1.0
    timeout_s: float = 5.0
    retries: int = 3
    replace_after_s: float = 0.0
    """How long a task may stay unhealthy before another node is tried; 0: for ever."""


class UpdateDraft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a change goes out over a service's tasks; 0 of parallelism: all at once."""

    parallelism: int = 0
    delay_s: float = 0.0
    canary: int = 0
    monitor_s: float = 0.0
    patience_s: float = 60.0
    on_failure: FailureAction = FailureAction.PAUSE


def health_of(draft: HealthDraft | None) -> Health | None:
    """Return the health check a draft means. Raises InvalidRequest."""
    if draft is None:
        return None
    if sum((bool(draft.command), bool(draft.url), draft.process)) != 1:
        raise InvalidRequest("a health check takes one of command, url and process")
    _check_range("interval of a health check", draft.interval_s, MIN_INTERVAL_S, MAX_INTERVAL_S)
    _check_range("timeout of a health check", draft.timeout_s, MIN_TIMEOUT_S, MAX_TIMEOUT_S)
    if not 1 <= draft.retries <= MAX_RETRIES:
        raise InvalidRequest(f"the retries of a health check range from 1 to {MAX_RETRIES}")
    if draft.replace_after_s:
        what = "time until an unhealthy task is replaced"
        _check_range(what, draft.replace_after_s, MIN_REPLACE_S, LONGEST_S)
    if draft.command:
        check_command(draft.command, "a health check")
    if draft.url:
        parse_loopback_url(draft.url)
    return Health(
        command=draft.command,
        url=draft.url,
        process=draft.process,
        interval_s=draft.interval_s,
        timeout_s=draft.timeout_s,
        retries=draft.retries,
        replace_after_s=draft.replace_after_s,
    )


def update_of(draft: UpdateDraft) -> UpdatePolicy:
    """Return the update policy a draft means. Raises InvalidRequest."""
    for what, tasks in (("parallelism", draft.parallelism), ("canary", draft.canary)):
        if not 0 <= tasks <= MAX_TASKS:
            raise InvalidRequest(f"the {what} of an update ranges from 0 to {MAX_TASKS} tasks")
    _check_range("delay of an update", draft.delay_s, 0.0, LONGEST_S)
    _check_range("monitor time of an update", draft.monitor_s, 0.0, LONGEST_S)
    _check_range("patience of an update", draft.patience_s, 1.0, LONGEST_S)
    return UpdatePolicy(
        parallelism=draft.parallelism,
        delay_s=draft.delay_s,
        canary=draft.canary,
        monitor_s=draft.monitor_s,
        patience_s=draft.patience_s,
        on_failure=draft.on_failure,
    )


def health_shown(health: Health | None) -> dict[str, JSON] | None:
    """Return a health check as it is shown, which is also how a draft writes it."""
    if health is None:
        return None
    return {
        "command": list(health.command),
        "url": health.url,
        "process": health.process,
        "interval_s": health.interval_s,
        "timeout_s": health.timeout_s,
        "retries": health.retries,
        "replace_after_s": health.replace_after_s,
    }


def update_shown(update: UpdatePolicy) -> dict[str, JSON]:
    """Return an update policy as it is shown, which is also how a draft writes it."""
    return {
        "parallelism": update.parallelism,
        "delay_s": update.delay_s,
        "canary": update.canary,
        "monitor_s": update.monitor_s,
        "patience_s": update.patience_s,
        "on_failure": update.on_failure.value,
    }


def _check_range(what: str, seconds: float, least_s: float, most_s: float) -> None:
    # Written so that NaN, which compares false with everything, is refused.
    if not least_s <= seconds <= most_s:
        raise InvalidRequest(f"the {what} ranges from {least_s:g} to {most_s:g} seconds")
