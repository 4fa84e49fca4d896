"""Linux calls that Python does not wrap: mount API, namespaces, prctl, capabilities, locked memory.

Each function is the call and nothing more; failures are OSError. Policy belongs to the callers.
Standard library only.
Sources: mount_setattr(2), fsopen(2), open_tree(2), move_mount(2), prctl(2), proc_pid_mountinfo(5).
"""

import ctypes
import errno
import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TMPFS_MAGIC = 0x01021994

MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
ATTR_CLOSED = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC

MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_GET_DUMPABLE = 3
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

CAP_IPC_LOCK = 14
CAP_SYS_ADMIN = 21

# The same numbers on every architecture: the unified table since Linux 5.1.
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 442
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_BOTH_EMPTY = 0x04 | 0x40
_FSOPEN_CLOEXEC = 1
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6
_FSMOUNT_CLOEXEC = 1
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_TIME_ERROR = 5
_SO_PEERPIDFD = 77
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(what: str, number: int, *arguments: int | bytes | None) -> int:
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(int(_libc.syscall(ctypes.c_long(number), *wide)), what)


def new_tmpfs(source: str, options: Mapping[str, str | None], attributes: int) -> int:
    """Return the O_PATH descriptor of a new tmpfs that no path leads to yet.

    `options`: tmpfs options; None stands for a flag. `attributes`: MOUNT_ATTR_*. A refused option
    raises OSError with the kernel's own reason, such as "tmpfs: Unknown parameter 'noswap'".
    """
    context = _syscall("fsopen", _FSOPEN, b"tmpfs", _FSOPEN_CLOEXEC)
    try:
        for key, value in {"source": source, **options}.items():
            command = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
            text = None if value is None else value.encode()
            _fsconfig(context, command, key.encode(), text)
        _fsconfig(context, _FSCONFIG_CMD_CREATE, None, None)
        return _syscall("fsmount", _FSMOUNT, context, _FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(context)


def _fsconfig(context: int, command: int, key: bytes | None, value: bytes | None) -> None:
    try:
        _syscall("fsconfig", _FSCONFIG, context, command, key, value, 0)
    except OSError as error:
        reason = ""
        with suppress(OSError):
            reason = os.read(context, 4096).decode(errors="replace").strip()
        raise OSError(error.errno, reason or error.strerror) from None


def clone_mount(fd: int) -> int:
    """Return a detached copy of the mount `fd` lies in, rooted at `fd`, with flags of its own."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_EMPTY_PATH
    return _syscall("open_tree", _OPEN_TREE, fd, b"", flags)


def attach_mount(mount_fd: int, directory_fd: int) -> None:
    """Attach a detached mount on a directory; by descriptor, so that no symlink can divert it."""
    _syscall("move_mount", _MOVE_MOUNT, mount_fd, b"", directory_fd, b"", _MOVE_MOUNT_BOTH_EMPTY)


def set_mount_attributes(
    mount_fd: int, *, set_: int = 0, clear: int = 0, propagation: int = 0
) -> None:
    """Set and clear MOUNT_ATTR_* of one mount; needs Linux 5.12.

    EBUSY: RDONLY was asked for while a file is open for writing.
    """
    attr = _MountAttr(set_, clear, propagation, 0)
    raw = bytes(attr)
    _syscall("mount_setattr", _MOUNT_SETATTR, mount_fd, b"", _AT_EMPTY_PATH, raw, len(raw))


def mount(source: str, target: str, fs_type: str, flags: int, data: str = "") -> None:
    """Call mount(2)."""
    arguments = (source.encode(), target.encode(), fs_type.encode(), ctypes.c_ulong(flags))
    _checked(_libc.mount(*arguments, data.encode()), f"mount {target}")


def unmount(path: str, flags: int = 0) -> None:
    """Call umount2(2)."""
    _checked(_libc.umount2(os.fsencode(path), flags), f"umount {path}")


def filesystem_magic(fd: int) -> int:
    """Return the filesystem type (`f_type`) that `fd` lies on, as the kernel itself says."""
    buffer = (ctypes.c_long * 64)()
    _checked(_libc.fstatfs(fd, ctypes.byref(buffer)), "fstatfs")
    return int(buffer[0])


def unshare(flags: int) -> None:
    """Call unshare(2)."""
    _checked(_libc.unshare(flags), "unshare")


def prctl(option: int, argument: int = 0) -> int:
    """Call prctl(2) with one argument and zeros."""
    zeros = [ctypes.c_ulong(0)] * 3
    return _checked(_libc.prctl(option, ctypes.c_ulong(argument), *zeros), f"prctl {option}")


def set_seccomp_filter(instructions: bytes) -> None:
    """Install a classic BPF program (8 bytes an instruction) for this thread and all it starts."""
    buffer = ctypes.create_string_buffer(instructions, len(instructions))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    program = Program(len(instructions) // 8, ctypes.addressof(buffer))
    address = ctypes.c_ulong(ctypes.addressof(program))
    mode = ctypes.c_ulong(2)
    zero = ctypes.c_ulong(0)
    _checked(_libc.prctl(PR_SET_SECCOMP, mode, address, zero, zero), "seccomp")


def clear_capabilities() -> None:
    """Empty the effective, permitted and inheritable sets of this thread."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())), "capset")


def has_capability(number: int) -> bool:
    """Return whether this process holds a capability in its effective set."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def lock_memory() -> None:
    """Lock all memory, present and future, as it is touched (ONFAULT)."""
    _checked(_libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT), "mlockall")


def clock_is_synchronised() -> bool:
    """Return whether the kernel believes that something disciplines its clock (adjtimex(2))."""
    buffer = ctypes.create_string_buffer(512)
    return _checked(_libc.adjtimex(buffer), "adjtimex") != _TIME_ERROR


def peer_pidfd(connection: socket.socket) -> int | None:
    """Return a pidfd of the process that connected a unix socket; None before Linux 6.5.

    Raises ProcessLookupError when it has ended and was reaped.
    """
    try:
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            return None
        # ESRCH, ENODATA or EINVAL: it differs between kernels.
        raise ProcessLookupError(error.errno, "the peer has ended") from None


def active_swaps() -> tuple[str, ...]:
    """Return the names of active swap areas."""
    return tuple(line.split()[0] for line in Path("/proc/swaps").read_text().splitlines()[1:])


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of mountinfo."""

    mount_id: int
    root: str
    mount_point: str
    options: frozenset[str]
    fs_type: str
    source: str
    super_options: frozenset[str]


_ESCAPE = re.compile(r"\\([0-7]{3})")


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def mount_table() -> tuple[MountEntry, ...]:
    """Return every mount of this mount namespace, in the order of mounting."""
    text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    return tuple(_parse_mount(line) for line in text.splitlines())


def _parse_mount(line: str) -> MountEntry:
    mount_part, _, super_part = line.partition(" - ")
    mount_id, _, _, root, mount_point, options = mount_part.split(" ")[:6]
    fs_type, source, super_options = super_part.split(" ", 2)
    return MountEntry(
        int(mount_id),
        _unescaped(root),
        _unescaped(mount_point),
        frozenset(options.split(",")),
        fs_type,
        _unescaped(source),
        frozenset(super_options.split(",")),
    )


def mount_of(fd: int) -> MountEntry | None:
    """Return the mount `fd` was opened through; None if detached: mountinfo has no line for it."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        if line.startswith("mnt_id:"):
            wanted = int(line.split()[1])
            return next((entry for entry in mount_table() if entry.mount_id == wanted), None)
    return None
