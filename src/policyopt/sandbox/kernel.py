"""The few Linux system calls that Python has no function for; each raises OSError naming itself."""

from __future__ import annotations

import ctypes
import os
import platform

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 0x1000, 0x4000, 0x40000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = (
    1, 4, 22, 24, 38, 47,
)  # fmt: skip
_MNT_DETACH, _AT_FDCWD, _AT_RECURSIVE = 2, -100, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAP_VERSION_3 = 0x20080522
_EINVAL = 22
# Numbers of calls that the C library does not wrap: (x86_64, aarch64).
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR = 442

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def _checked(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    _checked(f"unshare({flags:#x})", _libc.unshare(flags))


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    given = [None if text is None else text.encode() for text in (source, target, kind, options)]
    _checked(f"mount({target})", _libc.mount(*given[:3], ctypes.c_ulong(flags), given[3]))


def mount_read_only(target: str, *, devices: bool = False, recursive: bool = True) -> None:
    """Nothing under the mount can be written, nor gives privileges by being run; unlike a remount this reaches the
    mounts inside it and keeps their other flags (Linux 5.12)."""
    attributes = _MountAttributes(attr_set=_ATTR_RDONLY | _ATTR_NOSUID | (0 if devices else _ATTR_NODEV))
    at = ctypes.c_int(_AT_FDCWD), target.encode(), ctypes.c_uint(_AT_RECURSIVE if recursive else 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    number = ctypes.c_long(_MOUNT_SETATTR)
    _checked(f"mount_setattr({target})", _libc.syscall(number, *at, ctypes.byref(attributes), size))


def pivot_to(folder: str) -> None:
    """`folder`, a mount point, becomes the root; the old one is gone from this mount namespace."""
    os.chdir(folder)
    number = ctypes.c_long(_PIVOT_ROOT[platform.machine()])
    _checked("pivot_root", _libc.syscall(number, b".", b"."))
    _checked("umount2", _libc.umount2(b".", _MNT_DETACH))
    os.chdir("/")


def prctl(what: int, one: int = 0, two: int = 0) -> int:
    numbers = [ctypes.c_ulong(value) for value in (one, two, 0, 0)]
    return _checked(f"prctl({what})", _libc.prctl(what, *numbers))


def bound_privileges() -> None:
    """Nothing that this process or its children execute gives them a capability; those they have stay."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno != _EINVAL:  # the kernel knows no more of them
                raise
            break


def drop_privileges() -> None:
    """No capability is left; see `bound_privileges`."""
    header = (ctypes.c_uint32 * 2)(_CAP_VERSION_3, 0)
    _checked("capset", _libc.capset(header, (ctypes.c_uint32 * 6)()))


def filter_calls(program: bytes) -> None:
    """Install a seccomp filter (an array of ``struct sock_filter``) for good."""

    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]

    described = Filter(len(program) // 8, program)
    two = ctypes.c_ulong(2)  # SECCOMP_MODE_FILTER
    zero = ctypes.c_ulong(0)
    _checked("seccomp", _libc.prctl(PR_SET_SECCOMP, two, ctypes.byref(described), zero, zero))
