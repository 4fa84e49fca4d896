"""The count of leases: from the sending of the newest request that was granted, file by file."""

import math

import pytest

from agent.lease import Grant, Lease
from cluster.protocol.wire import FileSpec

LINK, OTHER = 1, 2


def file(lease_s: float | None = None, *, wipe: bool = True) -> FileSpec:
    return FileSpec("f", "id", "f", 1, None, None, 0o440, wipe, lease_s)


NODE, SHORT, LONG, KEPT = file(), file(30.0), file(3600.0), file(wipe=False)


def granted(lease: Lease, sent_s: float, lease_s: float = 60.0) -> Lease:
    assert lease.grant(LINK, lease.ask(LINK, sent_s), lease_s) == Grant(sent_s, lease_s)
    return lease


@pytest.mark.parametrize(
    ("spec", "until_s"), [(NODE, 160.0), (SHORT, 130.0), (LONG, 3700.0), (KEPT, math.inf)]
)
def test_each_file_has_its_own_end(spec: FileSpec, until_s: float) -> None:
    lease = granted(Lease(None), 100.0)
    assert lease.covers(spec, min(until_s, 1e9) - 0.001)
    assert lease.covers(spec, until_s) is (spec is KEPT)


def test_nothing_is_covered_before_the_first_grant_but_what_is_kept() -> None:
    lease = Lease(None)
    lease.ask(LINK, 0.0)
    assert [lease.covers(spec, 0.0) for spec in (NODE, SHORT, LONG, KEPT)] == [
        False, False, False, True,
    ]  # fmt: skip


def test_next_process_counts_on_from_the_same_sending() -> None:
    lease = Lease(Grant(100.0, 60.0))
    assert [lease.covers(spec, 145.0) for spec in (NODE, SHORT, LONG)] == [True, False, True]


def test_a_late_answer_prolongs_by_what_is_left_only() -> None:
    lease = Lease(None)
    number = lease.ask(LINK, 100.0)
    assert lease.grant(LINK, number, 60.0) is not None  # at 159, say
    assert not lease.covers(SHORT, 159.0)
    assert not lease.covers(NODE, 160.0)


def test_older_request_answered_last_changes_nothing() -> None:
    lease = Lease(None)
    old = lease.ask(OTHER, 90.0)
    granted(lease, 100.0)
    assert lease.grant(OTHER, old, 1e6) is None
    assert not lease.covers(NODE, 160.0)


def test_request_of_another_link_or_answered_before_grants_nothing() -> None:
    lease = Lease(None)
    number = lease.ask(LINK, 100.0)
    assert lease.grant(OTHER, number, 60.0) is None
    assert lease.grant(LINK, number, 60.0) is not None
    assert lease.grant(LINK, number, 1e6) is None
    assert not lease.covers(NODE, 160.0)


@pytest.mark.parametrize("lease_s", [0.0, -5.0, math.nan])
def test_grant_of_nothing_covers_nothing(lease_s: float) -> None:
    lease = Lease(None)
    lease.grant(LINK, lease.ask(LINK, 100.0), lease_s)
    assert not lease.covers(NODE, 100.0)


def test_lease_of_a_file_that_is_no_number_covers_nothing() -> None:
    assert not granted(Lease(None), 100.0).covers(file(math.nan), 100.0)
