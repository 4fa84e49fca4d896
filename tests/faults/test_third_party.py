"""The third party's hook is idempotent, and its judges find what is planted."""

import base64
import hashlib
import json
import subprocess
from pathlib import Path

from tests.faults.third_party import (
    HOOK,
    REFUSED,
    Call,
    Issued,
    calls,
    digest_of,
    party_faults,
    set_up,
)

OLD, NEW = digest_of(b"old"), digest_of(b"new")


def told(base: Path, operation: str, action: str) -> bool:
    """Call the hook until it says yes, as the managers do; return whether it ever did."""
    call = {
        "operation": operation,
        "action": action,
        "secret": "h0",
        "version": 2,
        "value": base64.b64encode(b"new").decode(),
        "previous": {"version": 1, "value": base64.b64encode(b"old").decode()},
    }
    program = base / "hooks" / HOOK
    for _ in range(5):
        done = subprocess.run([program], input=json.dumps(call).encode(), check=False)
        if done.returncode == 0:
            return True
    return False


def willing(base: Path) -> str:
    """Return an operation that the third party does not refuse."""
    names = (f"operation-{number}" for number in range(100))
    return next(name for name in names if all(told(base, name, a) for a in ("prepare", "confirm")))


def test_the_hook_carries_an_operation_out_once(tmp_path: Path) -> None:
    """A call that comes late changes nothing any more."""
    set_up(tmp_path)
    operation = willing(tmp_path)
    assert set(calls(tmp_path)[-1].accepted) == {OLD, NEW}
    for action in ("retire", "prepare", "retire", "rollback"):
        assert told(tmp_path, operation, action)
        assert calls(tmp_path)[-1].accepted == (NEW,)


def test_the_hook_takes_an_operation_back(tmp_path: Path) -> None:
    """Also one that it was never prepared for."""
    set_up(tmp_path)
    assert told(tmp_path, "unprepared", "rollback")
    assert told(tmp_path, "unprepared", "prepare")
    assert calls(tmp_path)[-1].accepted == (OLD,)


def test_a_refused_operation_leaves_the_old_credential(tmp_path: Path) -> None:
    """Also the very first one."""
    set_up(tmp_path)
    names = (f"operation-{number}" for number in range(1000))
    drawn = ((name, hashlib.sha256(f"{name}prepare".encode()).digest()[0]) for name in names)
    refused = next(name for name, first in drawn if first < REFUSED)
    assert not told(tmp_path, refused, "prepare")
    assert {one.accepted for one in calls(tmp_path)} == {(OLD,)}


def call(at: float, action: str, *accepted: str, version: int = 2) -> Call:
    return Call(at, "operation", action, version, yes=True, again=False, accepted=accepted)


CALLS = [call(1, "prepare", NEW, OLD), call(5, "retire", NEW)]


def test_what_is_accepted_when_it_is_issued_passes() -> None:
    issued = [Issued(2, 3, OLD), Issued(4, 6, OLD), Issued(6, 7, NEW), Issued(0, 1, OLD)]
    assert list(party_faults(CALLS, issued, [(2, 1.5)])) == []


def test_what_is_issued_and_not_accepted_is_found() -> None:
    (fault,) = party_faults(CALLS, [Issued(6, 7, OLD)], [])
    assert "was accepted at no moment" in fault


def test_a_version_that_is_primary_before_it_is_prepared_is_found() -> None:
    for pushed in ((2, 0.5), (3, 9.0)):
        (fault,) = party_faults(CALLS, [], [pushed])
        assert "was not prepared" in fault
