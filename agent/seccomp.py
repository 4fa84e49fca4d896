"""The system-call filter of an executed service: deny what reaches other processes or the kernel.

Owns the list and the BPF program; `agent.launch` installs it. A deny list, not an allow list:
ordinary programs must run unchanged, and the uid and the empty capability sets are the boundary;
this closes what an unprivileged uid can still try. Standard library only.
Source: seccomp(2), the default profile of Docker, the system call tables of x86_64 and aarch64.
"""

import errno
import os
import struct

_LOAD_WORD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_OFFSET_NUMBER, _OFFSET_ARCH = 0, 4
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_DENY = _ERRNO | errno.EPERM
_X32_BIT = 0x40000000

# In clone the low byte is the exit signal, so CLONE_NEWTIME (0x80) exists for unshare only.
_NAMESPACES_CLONE = 0x7E020000
_NAMESPACES_UNSHARE = _NAMESPACES_CLONE | 0x80
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# For each call its number on x86_64 and on aarch64.
_DENIED: dict[str, tuple[int, int]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "fanotify_init": (300, 262),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
}
_CLONE, _CLONE3, _UNSHARE, _IOCTL = (56, 220), (435, 435), (272, 97), (16, 29)


def is_supported() -> bool:
    """Return whether there is a filter for this machine's architecture."""
    return os.uname().machine in _AUDIT_ARCH


def build_filter(machine: str | None = None) -> bytes:
    """Return the BPF program for `machine` (default: this one). Raises KeyError if unsupported."""
    machine = machine or os.uname().machine
    column = list(_AUDIT_ARCH).index(machine) if machine in _AUDIT_ARCH else None
    if column is None:
        raise KeyError(machine)
    program = [
        _statement(_LOAD_WORD, _OFFSET_ARCH),
        # Another ABI of the same machine (i386, x32) has other numbers: it could name any call.
        _jump(_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        _statement(_RETURN, _DENY),
        _statement(_LOAD_WORD, _OFFSET_NUMBER),
    ]
    if machine == "x86_64":
        program += [_jump(_AT_LEAST, _X32_BIT, 0, 1), _statement(_RETURN, _DENY)]
    for numbers in _DENIED.values():
        program += [_jump(_EQUAL, numbers[column], 0, 1), _statement(_RETURN, _DENY)]
    # clone3 passes its flags by pointer, which a filter cannot read. ENOSYS makes libc use clone.
    program += [_jump(_EQUAL, _CLONE3[column], 0, 1), _statement(_RETURN, _ERRNO | errno.ENOSYS)]
    program += _deny_argument(_CLONE[column], 0, _ANY_BIT, (_NAMESPACES_CLONE,))
    program += _deny_argument(_UNSHARE[column], 0, _ANY_BIT, (_NAMESPACES_UNSHARE,))
    program += _deny_argument(_IOCTL[column], 1, _EQUAL, (_TIOCSTI, _TIOCLINUX))
    program.append(_statement(_RETURN, _ALLOW))
    return b"".join(program)


def _statement(code: int, operand: int) -> bytes:
    return struct.pack("=HBBI", code, 0, 0, operand)


def _jump(code: int, operand: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)


def _deny_argument(number: int, index: int, test: int, operands: tuple[int, ...]) -> list[bytes]:
    """Deny call `number` where the low half of argument `index` meets `test` with an operand.

    The low half is enough: the kernel itself truncates an ioctl command to 32 bits, and the
    namespace flags lie in it.
    """
    tests = [
        part
        for operand in operands
        for part in (_jump(test, operand, 0, 1), _statement(_RETURN, _DENY))
    ]
    argument = [_statement(_LOAD_WORD, 16 + 8 * index), *tests, _statement(_RETURN, _ALLOW)]
    return [_jump(_EQUAL, number, 0, len(argument)), *argument]
