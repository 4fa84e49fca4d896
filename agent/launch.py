"""The supervisor of an executed service: namespaces, an empty set of rights, then the program.

    supervisor (root, own mount namespace)      waits, forwards signals, returns the exit code
      init (pid 1 of a new pid namespace)       mounts /proc, drops everything, reaps
        service                                 the program

The supervisor is no child of the agent, so an agent's death never ends a service; the service ends
with its supervisor (pid 1 gets SIGKILL, and its namespace goes with it). In its view /run/secrets
is the service's own tmpfs, /run/strongroom holds its own workload socket, and the directories of
all other services are covered. Everything is imported before rights are dropped: a service's uid
may not be able to read the interpreter's home. Standard library only. Source: DESIGN section 6,
pid_namespaces(7), mount_namespaces(7), capabilities(7).
"""

import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from agent import linux, seccomp

if TYPE_CHECKING:
    from agent.log_keeper import Captured

SECRETS_DIRECTORY = "/run/secrets"
RUNTIME_DIRECTORY = "/run/strongroom"
FAILED_BEFORE_EXEC = 125
CANNOT_EXECUTE = 126
PROGRAM_NOT_FOUND = 127

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSED_ENVIRONMENT = ("TERM", "LANG", "LC_ALL", "TZ")
_FORWARDED = {
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGCONT,
}
_WAITED = _FORWARDED | {signal.SIGCHLD}
_SENT_BY_KERNEL = 0x80
_PATH_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Launch:
    """What to run and what it may see."""

    mount_path: Path
    """The service's attached mount."""
    workload_socket: Path
    """Alone in a directory of its own, so that a restarted agent's new socket appears there."""
    uid: int
    gid: int
    argv: tuple[str, ...]
    hidden: tuple[Path, ...] = ()
    """Directories to cover besides the parents of mount and socket: other services' things."""
    log_socket: Path | None = None
    """Where the last lines of its output can be asked for; None: they are not kept."""
    environment: Mapping[str, str] | None = None
    """None: PATH, HOME and the locale only; root's own environment may hold credentials."""


def exec_service(launch: Launch) -> int:
    """Run the program to its end; return its exit code, or 128 + the signal that ended it.

    Call it as root from a process of its own with one thread: namespaces and the signal mask of
    the caller change. 125, 126, 127: we failed, the program cannot be executed, or is not found.
    Raises OSError or ValueError before anything was started.
    """
    if launch.uid == 0 or launch.gid == 0:
        raise ValueError("a service never runs as root; give it a uid and a gid of its own")
    cwd = os.getcwd()  # noqa: PTH109  # a string for chdir by path, see _run_program
    captured = _captured(launch)
    try:
        return _run(launch, cwd)
    finally:
        if captured is not None:
            captured.finish()


def _captured(launch: Launch) -> "Captured | None":
    if launch.log_socket is None:
        return None
    from agent.log_keeper import capture  # noqa: PLC0415  # on use only: `exec` starts fast

    return capture(launch.log_socket, launch.mount_path)


def _run(launch: Launch, cwd: str) -> int:
    alive_read, alive_write = os.pipe()
    linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWIPC | linux.CLONE_NEWPID)
    _arrange_mounts(launch)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED)
    init = os.fork()
    if init == 0:
        os.close(alive_write)
        _guarded(lambda: _run_init(launch, cwd, mask, alive_read))
    os.close(alive_read)
    try:
        return _supervise(init)
    finally:
        os.close(alive_write)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _arrange_mounts(launch: Launch) -> None:
    linux.mount("none", "/", "", linux.MS_REC | linux.MS_PRIVATE)
    secrets = _private_copy(launch.mount_path)
    if linux.filesystem_magic(secrets) != linux.TMPFS_MAGIC:
        raise ValueError(f"{launch.mount_path} is not a tmpfs; is the service mounted?")
    runtime = _private_copy(launch.workload_socket.parent)
    covered = {launch.mount_path.parent, launch.workload_socket.parent.parent, *launch.hidden}
    directories = sorted({path.resolve() for path in covered})
    if {Path("/"), Path("/run")} & set(directories):
        raise ValueError("services lie directly in / or /run; give the agent its own directory")
    _take_mounts_away(directories)
    for directory in directories:
        _cover(directory)
    _place(secrets, SECRETS_DIRECTORY)
    _place(runtime, RUNTIME_DIRECTORY)


def _private_copy(path: Path) -> int:
    """Return a read-only copy of the mount at `path`; taken before the original is covered."""
    source = os.open(path, _PATH_FLAGS)
    try:
        copy = linux.clone_mount(source)
    finally:
        os.close(source)
    linux.set_mount_attributes(
        copy,
        set_=linux.ATTR_CLOSED | linux.MOUNT_ATTR_RDONLY,
        propagation=linux.MS_PRIVATE,
    )
    return copy


def _take_mounts_away(directories: Sequence[Path]) -> None:
    """Unmount other services' mounts from this view, so that not even mountinfo names them."""
    for entry in reversed(linux.mount_table()):
        if any(Path(entry.mount_point).is_relative_to(directory) for directory in directories):
            linux.unmount(entry.mount_point, linux.MNT_DETACH)


def _cover(directory: Path) -> None:
    if not directory.is_dir():
        return
    options: dict[str, str | None] = {"size": "4k", "nr_inodes": "2", "mode": "0555"}
    attributes = linux.ATTR_CLOSED | linux.MOUNT_ATTR_RDONLY
    cover = linux.new_tmpfs("strongroom-cover", options, attributes)
    _attach(cover, str(directory))


def _place(mount_fd: int, directory: str) -> None:
    Path(directory).mkdir(mode=0o755, exist_ok=True)
    _attach(mount_fd, directory)


def _attach(mount_fd: int, directory: str) -> None:
    target = os.open(directory, _PATH_FLAGS)
    try:
        linux.attach_mount(mount_fd, target)
    finally:
        os.close(target)
        os.close(mount_fd)


def _guarded(body: Callable[[], int]) -> NoReturn:
    """Run a forked child's `body` and leave without the parent's cleanup, whatever happens."""
    code = FAILED_BEFORE_EXEC
    try:
        code = body()
    except OSError as error:
        _complain(str(error))
    finally:
        os._exit(code)


def _run_init(launch: Launch, cwd: str, mask: set[int | signal.Signals], alive: int) -> int:
    flags = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC
    linux.mount("proc", "/proc", "proc", flags, "hidepid=2")
    _drop_rights(launch.uid, launch.gid)
    # A parent that died before the death signal was set is seen by its end of the pipe.
    os.set_blocking(alive, False)
    with suppress(BlockingIOError):
        os.read(alive, 1)
        return FAILED_BEFORE_EXEC
    service = os.fork()
    if service == 0:
        _guarded(lambda: _run_program(launch, cwd, mask))
    return _supervise(service)


def _drop_rights(uid: int, gid: int) -> None:
    """Leave nothing but the uid and gid; irrevocably, for this process and all it starts."""
    _forbid_dumps()
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        linux.prctl(linux.PR_CAPBSET_DROP, capability)
    linux.prctl(linux.PR_CAP_AMBIENT, linux.PR_CAP_AMBIENT_CLEAR_ALL)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    linux.clear_capabilities()
    # After setresuid, which clears it.
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    if seccomp.is_supported():
        linux.set_seccomp_filter(seccomp.build_filter())
    else:
        _complain(f"weak: no system-call filter for {os.uname().machine}")


def _forbid_dumps() -> None:
    # 1, not 0: less than any dump needs, and the one limit that a piped core_pattern obeys
    # (core(5)); 0 would still hand the dump to the pipe. Under a hard limit of 0 only a capability
    # could raise it, and no dump at all is asked for then.
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    limit = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def _run_program(launch: Launch, cwd: str, mask: set[int | signal.Signals]) -> int:
    # By path, through the new mounts: the inherited directory could lie under a cover.
    try:
        os.chdir(cwd)
    except OSError:
        os.chdir("/")
    # An inherited directory descriptor would lead around the covers.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    environment = dict(launch.environment or default_environment(os.environ))
    try:
        os.execvpe(launch.argv[0], launch.argv, environment)  # noqa: S606  # the very purpose
    except FileNotFoundError:
        _complain(f"{launch.argv[0]}: not found")
        return PROGRAM_NOT_FOUND
    except OSError as error:
        _complain(f"{launch.argv[0]}: {error.strerror}")
        return CANNOT_EXECUTE


def default_environment(inherited: Mapping[str, str], passed: Sequence[str] = ()) -> dict[str, str]:
    """Return PATH, HOME, the locale, and the variables named in `passed`."""
    names = (*_PASSED_ENVIRONMENT, *passed)
    kept = {name: inherited[name] for name in names if name in inherited}
    return {"PATH": _DEFAULT_PATH, "HOME": "/", **kept}


def _supervise(child: int) -> int:
    """Forward signals to `child` and reap until it ends; return its code as a shell would."""
    while True:
        received = signal.sigwaitinfo(_WAITED)
        if received.si_signo == signal.SIGCHLD:
            status = _reap(child)
            if status is not None:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
        elif received.si_code != _SENT_BY_KERNEL:
            # What the terminal sent has reached the whole process group already.
            with suppress(ProcessLookupError):
                os.kill(child, received.si_signo)


def _reap(child: int) -> int | None:
    """Collect every ended child (pid 1 inherits orphans); return the status of `child`."""
    result = None
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                result = status
    return result


def _complain(message: str) -> None:
    with suppress(OSError):
        os.write(sys.stderr.fileno(), f"strongroom-agent exec: {message}\n".encode())
