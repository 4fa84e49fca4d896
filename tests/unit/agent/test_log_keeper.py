"""`exec` of a service that keeps a log: output goes where it went, and can be asked for."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent import log_keeper
from agent.local_call import ask
from agent.log_keeper import Keeper
from agent.log_ring import MAX_LINE
from cluster.protocol import wire
from cluster.system import SystemClock
from tests.support.node import Done, Node, finished, running_node, start_agent_command

PATIENCE_S = 60.0
SAYS = "echo out; echo err >&2; "
WAITS = "echo ready; read x; "


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path) as running:
        running.logged.add("red")
        yield running


def sockets(node: Node, service: str = "red") -> list[Path]:
    return sorted((node.run_directory / "logs" / node.ids[service]).glob("*.sock"))


async def lines(node: Node, after_s: float = 0.0) -> list[dict[str, Any]]:
    """Return what the one keeper of red has."""
    (path,) = sockets(node)
    fields: dict[str, object] = {"op": "logs", "after": after_s, "last": False}
    return list(json.loads(await asyncio.to_thread(ask, path, fields)))


async def texts(node: Node, *, until: str) -> list[str]:
    """Return the text of the lines once one reads `until`."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = [line["text"] for line in await lines(node)] if sockets(node) else []
            if until in found:
                return found
            await asyncio.sleep(0.01)


async def started(node: Node, script: str) -> asyncio.subprocess.Process:
    """Start a script that waits for a line of input, and let it come that far."""
    process = await node.start_exec("red", "sh", "-c", script)
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        while await process.stdout.readline() != b"ready\n":
            pass
    return process


async def gone(node: Node) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while sockets(node):  # noqa: ASYNC110  # what another process does sets no event here
            await asyncio.sleep(0.01)


async def test_output_and_exit_code_pass_through(node: Node) -> None:
    done = await node.run_exec("red", "sh", "-c", SAYS + "printf unended; exit 7")
    assert done == Done(7, "out\nunended", "err\n")
    assert sockets(node) == []


async def test_much_output_arrives_whole_and_in_order(node: Node) -> None:
    done = await node.run_exec("red", "seq", "1", "60000")
    assert done.stdout.split() == [str(number) for number in range(1, 60_001)]


async def test_lines_can_be_asked_for_while_it_runs(node: Node) -> None:
    process = await started(node, SAYS + WAITS + "echo later; read y")
    first = await texts(node, until="ready")
    assert sorted(first) == ["err", "out", "ready"]
    by_text = {line["text"]: line for line in await lines(node)}
    assert (by_text["out"]["stream"], by_text["err"]["stream"]) == ("stdout", "stderr")
    assert process.stdin is not None
    process.stdin.write(b"\n")
    await texts(node, until="later")
    after_s = max(line["at_s"] for line in by_text.values())
    assert [line["text"] for line in await lines(node, after_s)] == ["later"]
    await finished(process)
    await gone(node)


@pytest.mark.threat("T-54")
async def test_values_are_taken_out_of_what_is_kept_and_of_nothing_else(node: Node) -> None:
    """The program's own output goes where it went, as it is: that is not ours to change."""
    process = await started(node, "cat /run/secrets/db; echo; echo x-red-value-y; " + WAITS)
    kept = await texts(node, until="ready")
    assert kept == ["[redacted]", "x-[redacted]-y", "ready"]
    assert (await finished(process)).code in {0, 1}


@pytest.mark.threat("T-54")
async def test_nothing_is_kept_once_the_files_are_gone(node: Node) -> None:
    """A lease lapsed or the service was removed; the program still knows the value."""
    process = await started(node, "v=$(cat /run/secrets/db); " + WAITS + "echo it is $v; read y")
    node.mounts["red"].clear()
    assert process.stdin is not None
    process.stdin.write(b"\n")
    kept = await texts(node, until="[withheld: the service's files are gone]")
    assert kept == ["ready", "[withheld: the service's files are gone]"]
    assert (await finished(process)).stdout == "it is red-value\n"


@pytest.mark.threat("T-54")
async def test_no_service_reaches_a_log(node: Node) -> None:
    """Neither its own nor another's: only root does, and covers hide the directory besides."""
    process = await started(node, WAITS)
    await texts(node, until="ready")
    (path,) = sockets(node)
    modes = [one.stat().st_mode & 0o777 for one in (path, path.parent, path.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]
    for service in ("red", "blue"):
        seen = await node.run_exec(service, "ls", str(path))
        assert (seen.code, seen.stdout) == (2, "")
    await finished(process)


@pytest.mark.threat("T-54")
async def test_a_later_service_of_the_name_shares_no_keeper(node: Node) -> None:
    """What a removed service of others left running answers in a place of its own."""
    process = await started(node, WAITS)
    (before,) = sockets(node)
    node.ids["red"] = "q" * 26
    assert sockets(node) == []
    later = await started(node, WAITS)
    assert before not in sockets(node)
    for one in (process, later):
        await finished(one)


async def test_a_program_runs_without_a_log_and_says_so(node: Node) -> None:
    (node.run_directory / "logs").touch()
    done = await node.run_exec("red", "sh", "-c", SAYS + "exit 7")
    assert (done.code, done.stdout) == (7, "out\n")
    assert "no log is kept: File exists\n" in done.stderr


async def test_a_sockets_name_is_no_process_id(node: Node) -> None:
    """That comes again, and a dead keeper's name is removed."""
    process = await started(node, WAITS)
    (path,) = sockets(node)
    assert (len(path.stem), list(path.parent.iterdir())) == (32, [path])
    await finished(process)


def test_a_socket_has_its_name_only_once_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent takes a socket that refuses it for a dead keeper's, and removes it."""
    path = tmp_path / "logs/x/1.sock"
    named: list[bool] = []
    listen = socket.socket.listen

    def watched(listening: socket.socket, backlog: int) -> None:
        named.append(path.exists())
        listen(listening, backlog)

    monkeypatch.setattr(socket.socket, "listen", watched)
    with Keeper(path, tmp_path, (0, 0), SystemClock())._listen():
        assert named == [False]
        assert list(path.parent.iterdir()) == [path]


async def test_a_target_that_does_not_wait_loses_nothing() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    data = bytes(range(250)) * 1_200

    def write() -> None:
        log_keeper._write(writing, data)
        os.close(writing)

    with os.fdopen(reading, "rb") as stream:
        task = asyncio.create_task(asyncio.to_thread(write))
        async with asyncio.timeout(PATIENCE_S):
            assert await asyncio.to_thread(stream.read) == data
            await task


@pytest.mark.parametrize(("command", "code"), [("true", 0), ("sleep 600", -signal.SIGKILL)])
def test_a_keeper_that_does_not_end_is_ended(
    monkeypatch: pytest.MonkeyPatch, command: str, code: int
) -> None:
    statuses: list[int] = []
    wait = os.waitpid
    monkeypatch.setattr(log_keeper, "FINISH_S", PATIENCE_S if code == 0 else 0.01)

    def watched(pid: int, options: int) -> tuple[int, int]:
        found = wait(pid, options)
        statuses.append(found[1])
        return found

    monkeypatch.setattr(os, "waitpid", watched)
    child = os.posix_spawnp("sh", ["sh", "-c", f"exec {command}"], os.environ)
    log_keeper.Captured(child, (os.dup(1), os.dup(2))).finish()
    assert [os.waitstatus_to_exitcode(status) for status in statuses] == [code]


@pytest.mark.parametrize("text", ["\x01", "\U0001f512", "x"])
def test_an_answer_holds_more_than_a_message_to_a_manager(tmp_path: Path, text: str) -> None:
    """Else the cursor would be led past what was left out."""
    with socket.socket() as unused:
        made = Keeper(tmp_path / "1.sock", tmp_path, (unused.fileno(), 0), SystemClock())
    size = wire.LOG_BYTES // wire.LOG_LINES
    for _ in range(wire.LOG_LINES - 1):
        made._ring.add("stdout", (text * size).encode(), 1e6, 2e9)
    made._ring.add("stdout", (text * MAX_LINE).encode()[:MAX_LINE], 1e6, 2e9)
    rows = json.loads(made._found(0.0, last=False))
    kept = sum(len(row["text"]) for row in rows)
    assert len(rows) == wire.LOG_LINES or kept > wire.LOG_BYTES


async def test_a_service_without_a_log_has_no_keeper(node: Node) -> None:
    node.logged.clear()
    process = await started(node, WAITS)
    assert sockets(node) == []
    assert not (node.run_directory / "logs").exists()
    await finished(process)


async def test_the_agents_own_commands_are_no_part_of_the_log(node: Node) -> None:
    command = ["exec", "--ends-with", str(os.getpid()), "--run-dir", str(node.run_directory)]
    command += ["--service", "red", "--", "sh", "-c", WAITS]
    process = await start_agent_command(*command)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    assert sockets(node) == []
    await finished(process)


async def test_an_agents_end_ends_neither_program_nor_log(node: Node) -> None:
    process = await started(node, WAITS + "echo after; read y")
    await node.stop()
    assert process.stdin is not None
    process.stdin.write(b"\n")
    await texts(node, until="after")
    assert (await finished(process)).stdout == "after\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
async def test_a_signal_reaches_the_program_and_its_last_words_arrive(
    node: Node, number: signal.Signals
) -> None:
    """The keeper outlives the program: what that says while it ends is passed on."""
    trap = f"trap 'echo bye; exit 3' {number.name.removeprefix('SIG')}; "
    script = trap + "echo ready; while :; do sleep 0.05; done"
    process = await started(node, script)
    process.send_signal(number)
    assert await finished(process) == Done(3, "bye\n", "")
    await gone(node)


async def test_a_killed_supervisor_leaves_no_keeper(node: Node) -> None:
    process = await started(node, "echo ready; exec sleep 600")
    await texts(node, until="ready")
    process.kill()
    await finished(process)
    await gone(node)


async def test_a_reader_that_went_away_does_not_end_the_program(node: Node) -> None:
    process = await started(node, "echo ready; read x; echo more; echo more; echo last; read y")
    assert process.stdout is not None
    transport = process._transport.get_pipe_transport(1)  # type: ignore[attr-defined]  # asyncio closes a read end in no other way
    transport.close()
    assert process.stdin is not None
    process.stdin.write(b"\n")
    await texts(node, until="last")
    assert (await finished(process)).code in {0, 1}


async def test_who_asks_badly_gets_nothing_and_harms_nothing(node: Node) -> None:
    process = await started(node, WAITS)
    await texts(node, until="ready")
    (path,) = sockets(node)
    bad: list[dict[str, object]] = [{}, {"op": "logs", "after": "x", "last": 1}, {"after": None}]
    for fields in bad:
        with pytest.raises((ValueError, OSError)):
            await asyncio.to_thread(ask, path, fields)
    assert await texts(node, until="ready") == ["ready"]
    await finished(process)
