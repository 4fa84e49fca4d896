"""Hooks that are programs: what they are given, what they may be, how they fail. Real processes."""

import asyncio
import base64
import json
import os
from pathlib import Path

import pytest

from cluster.hook.contract import Credential, HookAction, HookCall
from cluster.hook.directory import HookDirectory
from cluster.protocol.errors import HookFailed
from cluster.protocol.ids import VersionNumber
from cluster.protocol.secret_bytes import SecretBytes

VALUE = b"\x00new-canary\xff"
SECOND = VersionNumber(2)
CALL = HookCall(
    operation="op1",
    action=HookAction.PREPARE,
    secret="db",
    new=Credential(SECOND, SecretBytes(VALUE)),
    previous=Credential(VersionNumber(1), None),
)


@pytest.fixture
def hooks(tmp_path: Path) -> HookDirectory:
    directory = tmp_path / "hooks"
    directory.mkdir(mode=0o755)
    return HookDirectory(directory, timeout_s=10.0)


def script(hooks: HookDirectory, *lines: str, name: str = "party", mode: int = 0o755) -> Path:
    assert hooks.path is not None
    path = hooks.path / name
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(mode)
    return path


async def why(hooks: HookDirectory, name: str = "party") -> str:
    with pytest.raises(HookFailed) as failed:
        await hooks.call(name, CALL)
    return failed.value.message


async def test_call_comes_by_standard_input_alone(hooks: HookDirectory, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    script(
        hooks,
        f"cat > {seen}.stdin",
        f"env > {seen}.env",
        f"pwd > {seen}.cwd",
        f"tr '\\0' ' ' < /proc/$$/cmdline > {seen}.argv",
        f"for fd in /proc/$$/fd/*; do readlink $fd; done > {seen}.fds; true",
    )
    await hooks.call("party", CALL)
    told = json.loads(Path(f"{seen}.stdin").read_bytes())
    assert base64.b64decode(told.pop("value")) == VALUE
    assert told == {
        "operation": "op1",
        "action": "prepare",
        "secret": "db",
        "version": 2,
        "previous": {"version": 1, "value": None},
    }
    names = {line.partition("=")[0] for line in Path(f"{seen}.env").read_text().splitlines()}
    assert "PATH" in names
    assert names <= {"PATH", "PWD", "SHLVL", "_", "OLDPWD"}, "a shell adds the others"
    assert Path(f"{seen}.cwd").read_text() == "/\n"
    assert Path(f"{seen}.argv").read_text().split() == ["/bin/sh", str(hooks.path) + "/party"]
    standard_input, *others = Path(f"{seen}.fds").read_text().split()
    assert standard_input.startswith(("socket:", "pipe:"))
    assert all(path.startswith(("/dev/null", str(tmp_path))) for path in others), others


@pytest.mark.parametrize("status", [1, 7, 255])
async def test_exit_status_is_the_answer_and_output_is_not_told(
    hooks: HookDirectory, status: int
) -> None:
    script(hooks, "cat", "cat >&2 /proc/self/environ", f"exit {status}")
    assert await why(hooks) == f"the hook ended with exit status {status}"


async def test_hook_that_hangs_is_killed_with_all_it_started(
    hooks: HookDirectory, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    script(hooks, f"sleep 600 & echo $! > {pids}; echo $$ >> {pids}; sleep 600")
    impatient = HookDirectory(hooks.path, timeout_s=1.0)
    assert await why(impatient) == "the hook did not end within 1 s; it was killed"
    async with asyncio.timeout(20):
        while any(_runs(int(pid)) for pid in pids.read_text().split()):  # noqa: ASYNC110  # polled
            await asyncio.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_hook_that_leaves_a_child_behind_leaves_none(
    hooks: HookDirectory, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    script(hooks, f"sleep 600 & echo $! > {pids}")
    await hooks.call("party", CALL)
    async with asyncio.timeout(20):
        while _runs(int(pids.read_text())):  # noqa: ASYNC110  # polled
            await asyncio.sleep(0.02)


async def test_hook_that_never_reads_or_writes_without_end(hooks: HookDirectory) -> None:
    script(hooks, "exit 0", name="deaf")
    script(hooks, "head -c 50000000 /dev/zero; exit 3", name="loud")
    large = HookCall("op1", HookAction.PREPARE, "db", _large(), CALL.previous)
    await hooks.call("deaf", large)
    assert await why(hooks, "loud") == "the hook ended with exit status 3"


def _large() -> Credential:
    return Credential(SECOND, SecretBytes(bytes(500_000)))


async def test_hook_ended_by_a_signal(hooks: HookDirectory) -> None:
    script(hooks, "kill -9 $$")
    assert await why(hooks) == "the hook was ended by signal 9"


async def test_hook_that_cannot_be_executed(hooks: HookDirectory) -> None:
    path = script(hooks)
    path.write_text("#!/no/such/interpreter\n")
    assert "could not be started" in await why(hooks)


# --- what is no hook ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../party", "a/b", "/bin/true", "party.toml", "-x"]
)
@pytest.mark.threat("T-37")
async def test_hook_is_named_by_a_plain_name(hooks: HookDirectory, name: str) -> None:
    """A name that leads out of the directory would run any program with a new credential."""
    script(hooks)
    hooks.check("party")
    outside = Path(str(hooks.path)).parent / "party"
    outside.write_text("#!/bin/sh\n")
    outside.chmod(0o755)
    with pytest.raises(HookFailed):
        hooks.check(name)
    assert await why(hooks, name)


def _writable_directory(hooks: HookDirectory) -> None:
    assert hooks.path is not None
    hooks.path.chmod(0o777)


def _writable_parent(hooks: HookDirectory) -> None:
    assert hooks.path is not None
    hooks.path.parent.chmod(0o777)


def _writable_hook(hooks: HookDirectory) -> None:
    assert hooks.path is not None
    (hooks.path / "party").chmod(0o775)


def _hook_of_another(hooks: HookDirectory) -> None:
    assert hooks.path is not None
    os.chown(hooks.path / "party", 12_345, 12_345)


def _directory_of_another(hooks: HookDirectory) -> None:
    assert hooks.path is not None
    os.chown(hooks.path, 12_345, 12_345)


def _link(hooks: HookDirectory) -> None:
    assert hooks.path is not None
    (hooks.path / "party").unlink()
    (hooks.path / "party").symlink_to("/bin/true")


def _linked_directory(hooks: HookDirectory) -> None:
    assert hooks.path is not None
    real = hooks.path.rename(hooks.path.parent / "elsewhere")
    hooks.path.symlink_to(real)


def _directory_as_hook(hooks: HookDirectory) -> None:
    assert hooks.path is not None
    (hooks.path / "party").unlink()
    (hooks.path / "party").mkdir()


def _not_executable(hooks: HookDirectory) -> None:
    assert hooks.path is not None
    (hooks.path / "party").chmod(0o644)


def _two_of_a_name(hooks: HookDirectory) -> None:
    assert hooks.path is not None
    (hooks.path / "party.toml").write_text("")


def _gone(hooks: HookDirectory) -> None:
    assert hooks.path is not None
    (hooks.path / "party").unlink()


@pytest.mark.parametrize(
    "spoil",
    [
        _writable_directory,
        _writable_parent,
        _writable_hook,
        _hook_of_another,
        _directory_of_another,
        _link,
        _linked_directory,
        _directory_as_hook,
        _not_executable,
        _two_of_a_name,
        _gone,
    ],
)
@pytest.mark.threat("T-37")
async def test_hook_that_others_could_have_put_there_is_not_run(
    hooks: HookDirectory, tmp_path: Path, spoil: object
) -> None:
    ran = tmp_path / "ran"
    script(hooks, f"touch {ran}")
    await hooks.call("party", CALL)
    assert ran.exists()
    ran.unlink()
    assert callable(spoil)
    spoil(hooks)
    assert await why(hooks)
    assert not ran.exists()


async def test_without_a_directory_there_are_no_hooks() -> None:
    assert HookDirectory().listed() == []
    assert "set hook_directory" in await why(HookDirectory())


def test_listing_names_what_is_wrong(hooks: HookDirectory) -> None:
    script(hooks, name="good")
    script(hooks, name="bad", mode=0o644)
    assert [(name, kind, bool(problem)) for name, kind, problem in hooks.listed()] == [
        ("bad", "", True),
        ("good", "program", False),
    ]
