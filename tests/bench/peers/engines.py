"""Three container engines of Debian's `docker.io`, in namespaces of their own, joined by a bridge.

One Debian root is unpacked for them; sockets, data and networks are theirs alone. They hang on
processes of this one: however it ends, they end with it. Needs root, iproute2, util-linux.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.bench.peers.sides import CannotRun
from tests.support.processes import children_of
from tests.support.running import wait_until

ROOT_TAR: Final = Path(__file__).parents[3] / "build" / "cache" / "peers-bookworm.tar"
PROGRAMS: Final = ("nsenter", "unshare", "setpriv", "ip", "chroot")
SUBNET: Final = "10.98.0"
IMAGE: Final = "127.0.0.1:1/bench:latest"
"""Made on each engine. A swarm asks the registry of a task's image first: this one refuses at once,
where another name would wait for a network that is not there."""
PORT: Final = 2377

_START: Final = """
root=$1 name=$2 group=$3
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs "$root/run"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/tmp"
echo "$name" >/proc/sys/kernel/hostname
cd "$root"
pivot_root . mnt
umount --lazy /mnt
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    dockerd --host "unix:///srv/$name/docker.sock" --data-root "/srv/$name/data" \
    --exec-root "/run/docker" --pidfile /run/docker.pid --cgroup-parent "/$group" \
    --storage-driver overlay2 --log-level warn
"""


class Engine:
    """One engine and how to ask it."""

    def __init__(self, base: Path, name: str, address: str, holder: int) -> None:
        self.name, self.address = name, address
        self._root, self._group, self._holder = base / "root", base.name, holder
        self.home = self._root / "srv" / name
        self.home.mkdir(parents=True)
        self._log = base / f"{name}.log"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """Where it is asked."""
        return self.home / "docker.sock"

    @property
    def pid(self) -> int:
        """The daemon's process id, as this machine sees it."""
        assert self._child is not None
        (child,) = children_of(self._child.pid)
        return child

    def start(self) -> None:
        """Start it and wait for its answer."""
        self.socket.unlink(missing_ok=True)
        argv = [
            "nsenter", f"--net=/proc/{self._holder}/ns/net", "--",
            "setpriv", "--pdeathsig", "KILL",
            "unshare", "--mount", "--propagation", "private", "--ipc", "--uts", "--pid",
            "--fork", "--kill-child",
            "bash", "-euc", _START, "engine", str(self._root), self.name, self._group,
        ]  # fmt: skip
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._answers, f"the container engine {self.name} answers")

    def kill(self) -> None:
        """End it and all it runs, as a power cut would."""
        if self._child is None:
            return
        if self._child.poll() is None:
            with contextlib.suppress(ValueError):  # it has not started its child, or it has ended
                os.kill(self.pid, signal.SIGKILL)
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def ask(self, method: str, path: str, body: object = None, timeout_s: float = 60.0) -> Any:  # noqa: ANN401  # as deep as the answer
        """Return the answer to a request. Raises OSError when it refuses or does not answer."""
        connection = _UnixConnection(self.socket, timeout_s)
        try:
            content = None if body is None else json.dumps(body).encode()
            connection.request(method, path, content, {"content-type": "application/json"})
            reply = connection.getresponse()
            answer = reply.read()
        except http.client.HTTPException as error:
            raise OSError(f"{method} {path}: {error}") from None
        finally:
            connection.close()
        if reply.status >= 300:
            raise OSError(f"{method} {path}: {reply.status} {answer[:300]!r}")
        return json.loads(answer) if answer else {}

    def command(self, *words: str) -> str:
        """Run the engine's command and return what it printed."""
        argv = ["chroot", str(self._root), "docker", "-H", f"unix:///srv/{self.name}/docker.sock"]
        return subprocess.run([*argv, *words], check=True, capture_output=True, text=True).stdout

    def import_image(self, tar: Path) -> None:
        """Make an image of a root's tar."""
        shutil.copy(tar, self.home / "image.tar")
        self.command("import", f"/srv/{self.name}/image.tar", IMAGE)

    def text(self) -> str:
        """Return the end of what it logged."""
        return self._log.read_text(errors="replace")[-2_000:]

    def _answers(self) -> bool:
        assert self._child is not None
        if self._child.poll() is not None:
            raise CannotRun(f"a container engine does not start here: {self.text()[-300:]}")
        return bool(self.ask("GET", "/version"))


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@contextlib.contextmanager
def engines() -> Iterator[list[Engine]]:
    """Give three engines that reach each other. Raises CannotRun where the machine lacks what they
    need."""
    lacking = [program for program in PROGRAMS if shutil.which(program) is None]
    if lacking or os.geteuid() != 0:
        raise CannotRun(f"needs root and {', '.join(lacking or PROGRAMS)}")
    if not ROOT_TAR.exists():
        raise CannotRun("no Debian root with docker.io; install mmdebstrap, run `make bench-peers`")
    base = Path(tempfile.mkdtemp(prefix="sr-swarm-", dir="/var/tmp"))
    base.chmod(0o755)
    holders: list[subprocess.Popen[bytes]] = []
    made: list[Engine] = []
    try:
        _unpack(base / "root")
        holders += [_holder() for _ in range(4)]
        hub, *nets = [holder.pid for holder in holders]
        _join(hub, nets)
        image = _image(base)
        for number, net in enumerate(nets, 1):
            engine = Engine(base, f"e{number}", f"{SUBNET}.{number}", net)
            made.append(engine)
            engine.start()
            engine.import_image(image)
        yield made
    finally:
        for engine in made:
            engine.kill()
        for holder in holders:
            holder.kill()
            holder.wait()
        _clear(base)


def _unpack(root: Path) -> None:
    root.mkdir()
    argv = ["tar", "-C", str(root), "--exclude=./dev/*", "-xf", str(ROOT_TAR)]
    subprocess.run(argv, check=True)


def _holder() -> "subprocess.Popen[bytes]":
    """Start a process that keeps a network namespace of its own."""
    argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    own, its = Path("/proc/self/ns/net"), Path(f"/proc/{child.pid}/ns/net")
    wait_until(lambda: its.stat().st_ino != own.stat().st_ino, "a network namespace is there")
    return child


def _join(hub: int, nets: list[int]) -> None:
    """Connect namespaces by a bridge in the hub's."""
    _ip(hub, "link", "add", "br0", "type", "bridge")
    _ip(hub, "link", "set", "br0", "up")
    for number, net in enumerate(nets, 1):
        pair = ["type", "veth", "peer", "name", "eth0", "netns", str(net)]
        _ip(hub, "link", "add", f"e{number}", *pair)
        _ip(hub, "link", "set", f"e{number}", "master", "br0", "up")
        _ip(net, "link", "set", "lo", "up")
        _ip(net, "address", "add", f"{SUBNET}.{number}/24", "dev", "eth0")
        _ip(net, "link", "set", "eth0", "up")
        _ip(net, "route", "add", "default", "via", f"{SUBNET}.254")


def _ip(net: int, *words: str) -> None:
    argv = ["nsenter", f"--net=/proc/{net}/ns/net", "--", "ip", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotRun(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _image(base: Path) -> Path:
    """Return the tar of a root that holds a shell and little else."""
    tar = base / "image.tar"
    with tarfile.open(tar, "w") as made:
        made.add(base / "root" / "bin" / "busybox", "bin/busybox")
        for name in ("sh", "cat", "mv", "sleep"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            made.addfile(link)
    return tar


def _clear(base: Path) -> None:
    """Remove directories and control groups; what was just ended may be there for a moment."""
    for _ in range(20):
        for group in sorted(Path("/sys/fs/cgroup").glob(f"**/{base.name}"), reverse=True):
            for inner in sorted((*group.glob("**/"), group), reverse=True):
                with contextlib.suppress(OSError):
                    inner.rmdir()
        shutil.rmtree(base, ignore_errors=True)
        if not base.exists():
            return
        time.sleep(0.5)
