"""The keeper of a service's output: passes it on, and remembers its last lines.

    program --pipe--> keeper --> the standard output and error that `exec` was given
                      keeper --> a ring in memory, asked over a socket that only root reaches

A process of its own, because an agent's death must not end a service: the agent asks, it does not
hold the pipe. It ends when the program and all it started are gone, and the ring with it. Nothing
it keeps reaches a disk; values in it are taken out as lines come (`agent.redaction`), while the
files still hold what the program printed. Standard library only. Source: DESIGN 6.
"""

import json
import os
import select
import selectors
import signal
import socket
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final, NoReturn

from agent import linux
from agent.local_call import MAX_LINE_BYTES, PROTOCOL_VERSION, short_address
from agent.log_ring import LineCutter, Ring
from agent.redaction import Net, redacted
from cluster.system import Clock, SystemClock

ANSWER_BYTES: Final = 1_000_000
"""Of one answer: more than a message to a manager takes, so that one never ends before it. With six
bytes for a character at most, and `LOG_LINES` rows."""
FINISH_S: Final = 10.0
"""How long a keeper may go on passing on what it has when its program ended."""
_CHUNK: Final = 65_536
_STREAMS: Final = ("stdout", "stderr")
_OUTLIVED: Final = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGPIPE,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_ASKING_S: Final = 1.0
"""How long one who asks may take: while he is served, the program's output waits."""


class Captured:
    """Standard output and error of this process lead to a keeper, until `finish`."""

    def __init__(self, keeper: int, originals: tuple[int, int]) -> None:
        self._keeper = keeper
        self._originals = originals

    def finish(self) -> None:
        """Put standard output and error back and wait until the keeper passed everything on.

        It is ended where that takes `FINISH_S`: the reader takes nothing, or somebody outside holds
        the program's end of a pipe.
        """
        for number, original in enumerate(self._originals, 1):
            os.dup2(original, number)
            os.close(original)
        with suppress(ChildProcessError):
            # Its id is this process's own until it is waited for: no other process gets it.
            if not _ended_within(self._keeper, FINISH_S):
                os.kill(self._keeper, signal.SIGKILL)
            os.waitpid(self._keeper, 0)


def _ended_within(child: int, timeout_s: float) -> bool:
    """Wait for a child's end, and leave it to be collected."""
    try:
        handle = os.pidfd_open(child)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select((handle,), (), (), timeout_s)[0])
    finally:
        os.close(handle)


def capture(socket_path: Path, mount_path: Path) -> Captured:
    """Start a keeper and lead standard output and error of this process to it.

    `mount_path`: where the service's files are. Call it before namespaces change, with one thread.
    """
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        os.close(out_write)
        os.close(err_write)
        _guarded(socket_path, mount_path, (out_read, err_read))
    os.close(out_read)
    os.close(err_read)
    originals = (os.dup(1), os.dup(2))
    os.dup2(out_write, 1)
    os.dup2(err_write, 2)
    os.close(out_write)
    os.close(err_write)
    return Captured(keeper, originals)


def _guarded(socket_path: Path, mount_path: Path, pipes: tuple[int, int]) -> NoReturn:
    """Run a keeper in a forked child and leave without the parent's cleanup."""
    try:
        for ended_by in _OUTLIVED:
            # It ends with the program: what the program says while it ends is passed on too.
            signal.signal(ended_by, signal.SIG_IGN)
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
        with suppress(OSError):
            linux.lock_memory()
        Keeper(socket_path, mount_path, pipes, SystemClock()).run()
    finally:
        os._exit(0)


class Keeper:
    """Passes two pipes on to this process's standard output and error, and answers who asks."""

    def __init__(
        self, socket_path: Path, mount_path: Path, pipes: tuple[int, int], clock: Clock
    ) -> None:
        self._path = socket_path
        self._clock = clock
        self._net = Net(mount_path)
        self._ring = Ring()
        self._cutters = {pipe: LineCutter() for pipe in pipes}
        self._streams = dict(zip(pipes, _STREAMS, strict=True))
        self._targets = dict(zip(pipes, (1, 2), strict=True))
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Work until both pipes are at their end."""
        listening = self._listen()
        # Before the program has read its files: whichever of them goes later is missed then.
        self._net.patterns()
        open_pipes = set(self._cutters)
        for pipe in open_pipes:
            self._selector.register(pipe, selectors.EVENT_READ)
        try:
            while open_pipes:
                for key, _ in self._selector.select():
                    if key.fd not in self._cutters:
                        self._answer(listening)
                    elif not self._pass_on(key.fd):
                        self._selector.unregister(key.fd)
                        open_pipes.discard(key.fd)
        finally:
            with suppress(OSError):
                self._path.unlink()

    def _listen(self) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Hidden from the agent until it can be asked: what refuses it is taken for dead.
        early = self._path.with_name(f".{self._path.stem}")
        try:
            # Its parent too: which services keep a log is nobody else's business.
            for directory in (self._path.parent.parent, self._path.parent):
                directory.mkdir(mode=0o700, exist_ok=True)
            with short_address(early) as address:
                listening.bind(address)
            early.chmod(0o600)
            listening.listen(4)
            early.rename(self._path)
            self._selector.register(listening, selectors.EVENT_READ)
        except OSError as error:
            # The program still runs, and its output still goes where it went.
            message = f"strongroom-agent exec: no log is kept: {error.strerror}\n"
            _write(2, message.encode())
            with suppress(OSError):
                early.unlink()
        return listening

    def _pass_on(self, pipe: int) -> bool:
        """Take in what a pipe has; return False at its end."""
        data = os.read(pipe, _CHUNK)
        cutter = self._cutters[pipe]
        self._keep(self._streams[pipe], list(cutter.feed(data) if data else cutter.rest()))
        _write(self._targets[pipe], data)
        return bool(data)

    def _keep(self, stream: str, lines: list[bytes]) -> None:
        patterns = self._net.patterns() if lines else []
        for line in lines:
            text = redacted(line.removesuffix(b"\r"), patterns)
            self._ring.add(stream, text, self._clock.boottime_s(), self._clock.now().timestamp())

    def _answer(self, listening: socket.socket) -> None:
        with suppress(OSError, ValueError):
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(_ASKING_S)
                with connection.makefile("rb") as stream:
                    after_s, last = _asked(stream.readline(MAX_LINE_BYTES))
                body = self._found(after_s, last=last)
                header = {"v": PROTOCOL_VERSION, "ok": True, "size": len(body)}
                connection.sendall(json.dumps(header).encode() + b"\n" + body)

    def _found(self, after_s: float, *, last: bool) -> bytes:
        """Return as many lines as one answer takes, in JSON: the `last` ones, or the next ones."""
        lines = self._ring.after(after_s)
        kept: list[bytes] = []
        size = 2
        for line in reversed(lines) if last else lines:
            row = json.dumps(asdict(line), ensure_ascii=False).encode()
            size += len(row) + 1
            if size > ANSWER_BYTES:
                break
            kept.append(row)
        return b"[" + b",".join(kept[::-1] if last else kept) + b"]"


def _asked(line: bytes) -> tuple[float, bool]:
    """Return the cursor and whether the last lines are asked for, or raise ValueError."""
    try:
        request = json.loads(line)
        return float(request["after"]), bool(request["last"])
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        raise ValueError("the request for lines cannot be read") from None


def _write(target: int, data: bytes) -> None:
    """Write everything; a target that is gone takes nothing more, and the program goes on."""
    with suppress(OSError):
        while data:
            try:
                data = data[os.write(target, data) :]
            except BlockingIOError:
                # Somebody it is shared with made it so; for the program it is a pipe that waits.
                select.select((), (target,), ())
