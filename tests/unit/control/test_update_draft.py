"""Health checks and update policies: what may be asked for, and that it is shown as written."""

import math

import msgspec
import pytest

from cluster.control.update_draft import (
    HealthDraft,
    UpdateDraft,
    health_of,
    health_shown,
    update_of,
    update_shown,
)
from cluster.protocol.errors import InvalidRequest
from cluster.store.records import FailureAction, Health, UpdatePolicy

COMMAND = ("/bin/check", "--deep")


def test_no_check_and_no_policy_are_the_defaults() -> None:
    assert health_of(None) is None
    assert health_shown(None) is None
    assert update_of(UpdateDraft()) == UpdatePolicy()


@pytest.mark.parametrize(
    ("draft", "health"),
    [
        (HealthDraft(command=COMMAND, retries=1), Health(command=COMMAND, retries=1)),
        (
            HealthDraft(url="http://localhost:8080/", interval_s=30.0),
            Health(url="http://localhost:8080/", interval_s=30.0),
        ),
        (HealthDraft(process=True, timeout_s=0.5), Health(process=True, timeout_s=0.5)),
    ],
)
def test_a_check_is_shown_as_a_draft_writes_it(draft: HealthDraft, health: Health) -> None:
    made = health_of(draft)
    assert made == health
    assert msgspec.convert(health_shown(made), HealthDraft) == draft


def test_a_policy_is_shown_as_a_draft_writes_it() -> None:
    draft = UpdateDraft(
        parallelism=2,
        delay_s=10.0,
        canary=1,
        monitor_s=30.0,
        patience_s=90.0,
        on_failure=FailureAction.ROLLBACK,
    )
    policy = update_of(draft)
    assert policy == UpdatePolicy(2, 10.0, 1, 30.0, 90.0, FailureAction.ROLLBACK)
    assert msgspec.convert(update_shown(policy), UpdateDraft) == draft


@pytest.mark.parametrize(
    ("draft", "why"),
    [
        (HealthDraft(), "one of command, url and process"),
        (HealthDraft(command=COMMAND, process=True), "one of command, url and process"),
        (HealthDraft(command=COMMAND, url="http://[::1]/"), "one of command, url and process"),
        (HealthDraft(command=("check",)), "absolute path"),
        (HealthDraft(command=("/bin/check", "a\0b")), "absolute path"),
        (HealthDraft(command=("/bin/check",) * 33), "at most 32 parts"),
        (HealthDraft(command=("/" + "x" * 4096,)), "4096 bytes"),
        (HealthDraft(url="https://127.0.0.1/"), "127.0.0.1"),
        (HealthDraft(url="http://10.0.0.1/"), "127.0.0.1"),
        (HealthDraft(process=True, interval_s=0.4), "interval .* from 0.5"),
        (HealthDraft(process=True, interval_s=3601), "interval .* to 3600"),
        (HealthDraft(process=True, interval_s=math.nan), "interval"),
        (HealthDraft(process=True, timeout_s=0), "timeout .* from 0.1"),
        (HealthDraft(process=True, timeout_s=301), "timeout .* to 300"),
        (HealthDraft(process=True, timeout_s=math.inf), "timeout"),
        (HealthDraft(process=True, retries=0), "retries .* from 1"),
        (HealthDraft(process=True, retries=101), "retries .* to 100"),
    ],
)
def test_unusable_checks_are_refused(draft: HealthDraft, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        health_of(draft)


@pytest.mark.parametrize(
    ("draft", "why"),
    [
        (UpdateDraft(parallelism=-1), "parallelism"),
        (UpdateDraft(parallelism=10_001), "parallelism"),
        (UpdateDraft(canary=-1), "canary"),
        (UpdateDraft(canary=10_001), "canary"),
        (UpdateDraft(delay_s=-1), "delay"),
        (UpdateDraft(delay_s=86_401), "delay"),
        (UpdateDraft(monitor_s=-0.1), "monitor"),
        (UpdateDraft(monitor_s=math.nan), "monitor"),
        (UpdateDraft(patience_s=0.5), "patience"),
        (UpdateDraft(patience_s=math.inf), "patience"),
    ],
)
def test_unusable_policies_are_refused(draft: UpdateDraft, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        update_of(draft)
