"""When a service is asked, and what its answers come to: no clock, no process."""

import msgspec

from agent.health import AT_ONCE, Basis, Finding, HealthWatch, basis_of
from cluster.protocol.wire import HealthCheck, HealthReport, ServiceAssignment, VersionKey
from tests.simulation.naive_manager import service

GOOD, BAD = Finding(healthy=True), Finding(healthy=False, detail="exit status 3")
CHECK = HealthCheck("exec", ("/bin/check",), interval_s=2.0, retries=3)


def checked(
    name: str = "red", version: int = 1, check: HealthCheck | None = CHECK
) -> ServiceAssignment:
    return msgspec.structs.replace(service(name, ("a", version)), health=check)


def following(*services: ServiceAssignment) -> HealthWatch:
    watch = HealthWatch()
    assert watch.follow(services, 0.0) == ()
    return watch


def one_check(watch: HealthWatch, now_s: float, finding: Finding | None) -> Basis:
    (basis,) = watch.start_due(now_s)
    watch.finish(basis, finding, now_s)
    return basis


def report(healthy: bool, detail: str = "", version: int = 1) -> tuple[HealthReport, ...]:
    return (HealthReport("id-red", 1, (VersionKey("a", version),), healthy, detail),)


def test_service_without_a_check_is_left_alone() -> None:
    watch = following(checked(check=None))
    assert watch.start_due(1e9) == ()


def test_first_check_comes_an_interval_after_the_change_and_the_next_after_its_end() -> None:
    watch = following(checked())
    assert watch.start_due(1.9) == ()
    (basis,) = watch.start_due(2.0)
    assert watch.start_due(60.0) == (), "one of a service in flight at most"
    watch.finish(basis, GOOD, 60.0)
    assert watch.start_due(61.9) == ()
    assert watch.start_due(62.0) == (basis,)


def test_first_success_is_healthy_and_told_once() -> None:
    watch = following(checked())
    assert watch.reports(1) == ()
    one_check(watch, 2.0, GOOD)
    assert watch.reports(1) == report(healthy=True)
    one_check(watch, 4.0, GOOD)
    assert watch.reports(1) == ()


def test_unhealthy_takes_as_many_failures_in_a_row_as_were_asked_for() -> None:
    watch = following(checked())
    for now_s, finding in ((2.0, BAD), (4.0, BAD), (6.0, GOOD), (8.0, BAD), (10.0, BAD)):
        one_check(watch, now_s, finding)
    assert watch.reports(1) == report(healthy=True)
    one_check(watch, 12.0, BAD)
    assert watch.reports(1) == report(healthy=False, detail="exit status 3")
    one_check(watch, 14.0, GOOD)
    assert watch.reports(1) == report(healthy=True)


def test_nothing_is_said_before_there_are_enough_failures() -> None:
    watch = following(checked())
    one_check(watch, 2.0, BAD)
    one_check(watch, 4.0, BAD)
    assert watch.reports(1) == ()


def test_another_link_is_told_again() -> None:
    watch = following(checked())
    one_check(watch, 2.0, GOOD)
    assert watch.reports(1) == report(healthy=True)
    assert watch.reports(2) == report(healthy=True)
    assert watch.reports(2) == ()


def test_changed_versions_start_fresh_and_an_old_answer_counts_for_nothing() -> None:
    watch = following(checked())
    one_check(watch, 2.0, BAD)
    one_check(watch, 4.0, BAD)
    (old,) = watch.start_due(6.0)
    assert watch.follow([checked(version=2)], 6.5) == ("id-red",)
    assert watch.start_due(60.0) == (), "the old check has not ended yet"
    watch.finish(old, BAD, 60.0)
    assert watch.reports(1) == ()
    new = one_check(watch, 60.0, BAD)
    assert new.mounted == (VersionKey("a", 2),)
    assert watch.reports(1) == (), "failures of the old version are not the new one's"
    one_check(watch, 62.0, GOOD)
    assert watch.reports(1) == report(healthy=True, version=2)


def test_going_back_to_a_version_starts_fresh_as_well() -> None:
    watch = following(checked())
    one_check(watch, 2.0, GOOD)
    assert watch.reports(1) == report(healthy=True)
    watch.follow([checked(version=2)], 3.0)
    watch.follow([checked()], 4.0)
    assert watch.reports(1) == ()
    one_check(watch, 6.0, GOOD)
    assert watch.reports(1) == report(healthy=True), "the manager forgot it with the change"


def test_answer_from_before_a_change_to_and_fro_counts_for_nothing() -> None:
    watch = following(checked())
    (old,) = watch.start_due(2.0)
    watch.follow([checked(version=2)], 3.0)
    watch.follow([checked()], 4.0)
    watch.finish(old, GOOD, 5.0)
    assert watch.reports(1) == ()


def test_changed_spec_starts_fresh() -> None:
    watch = following(checked())
    one_check(watch, 2.0, GOOD)
    watch.reports(1)
    watch.follow([msgspec.structs.replace(checked(), spec_number=2)], 3.0)
    assert watch.reports(1) == ()
    one_check(watch, 5.0, GOOD)
    assert [told.spec_number for told in watch.reports(1)] == [2]


def test_unchanged_services_go_on_as_they_were() -> None:
    watch = following(checked())
    one_check(watch, 2.0, GOOD)
    assert watch.follow([checked(), checked("blue")], 3.0) == ()
    assert watch.reports(1) == report(healthy=True)
    assert [basis.name for basis in watch.start_due(4.0)] == ["red"]


def test_removed_service_is_checked_no_more() -> None:
    watch = following(checked())
    (basis,) = watch.start_due(2.0)
    assert watch.follow([], 3.0) == ("id-red",)
    watch.finish(basis, None, 3.0)
    assert watch.start_due(60.0) == ()
    assert watch.reports(1) == ()


def test_check_that_was_given_up_says_nothing_and_is_made_again() -> None:
    watch = following(checked(check=msgspec.structs.replace(CHECK, retries=1)))
    basis = one_check(watch, 2.0, None)
    assert watch.reports(1) == ()
    assert watch.start_due(4.0) == (basis,)


def test_only_so_many_at_once_and_who_waits_longest_goes_first() -> None:
    names = [f"s{number}" for number in range(AT_ONCE + 2)]
    watch = following(*(checked(name) for name in names[1:]))
    watch.follow([checked(name) for name in names], 1.0)
    first = watch.start_due(10.0)
    assert [basis.name for basis in first] == sorted(names[1:])[:AT_ONCE]
    watch.finish(first[0], GOOD, 10.0)
    assert [basis.name for basis in watch.start_due(20.0)] == sorted(names[1:])[AT_ONCE:]
    watch.finish(first[1], GOOD, 20.0)
    assert [basis.name for basis in watch.start_due(20.0)] == ["s0"]


def test_limits_hold_whatever_a_manager_says() -> None:
    hasty = msgspec.structs.replace(CHECK, interval_s=0.0, retries=0)
    watch = following(checked(check=hasty))
    assert watch.start_due(0.4) == ()
    one_check(watch, 0.5, BAD)
    assert watch.reports(1) == report(healthy=False, detail="exit status 3")
    lazy = msgspec.structs.replace(CHECK, interval_s=float("inf"))
    assert len(following(checked(check=lazy)).start_due(3600.0)) == 1


def test_basis_names_each_version_once() -> None:
    twice = msgspec.structs.replace(checked(), files=(*checked().files, *checked().files))
    basis = basis_of(twice)
    assert basis is not None
    assert basis.mounted == (VersionKey("a", 1),)
