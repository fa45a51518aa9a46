"""The outer isolation: namespaces of its own and a root with nothing but Python's library in it.

`enter` leaves the calling process with an empty network, no `/proc`, no `/sys` and all privileges inside the new user
namespace, whose user is an unprivileged one outside.
"""

from __future__ import annotations

import glob
import os
import sys
import sysconfig

from policyopt.sandbox import kernel

_INSIDE = 1000  # the user and group that programs see
_NOBODY = 65534  # who they are outside, if the run is root's: the kernel does not limit root's processes
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo")
_STAGES = ("/tmp", "/mnt", "/var", "/run", "/srv")
PRIVATE = "/tmp"


def enter() -> None:
    """Isolate this process, which must have one thread; its next child is the first process inside."""
    os.umask(0o022)
    process = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
    _first_to_go(process)
    user, group = os.getuid(), os.getgid()
    everything = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET
    everything |= kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWUSER | kernel.CLONE_NEWCGROUP
    if user == 0 and _own_mounts():
        # With root's rights, because the library may lie in a folder that only root may enter.
        _build()
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else the maps below would belong to root
        user, group = _NOBODY, _NOBODY
        kernel.unshare(everything)
        _map(process, user, group)
    else:
        kernel.unshare(everything)
        _map(process, user, group)
        _build()
    os.close(process)
    os.umask(0o077)


def _own_mounts() -> bool:
    """A mount namespace with root's rights; False for a root without them, as in many containers."""
    try:
        kernel.unshare(kernel.CLONE_NEWNS)
    except PermissionError:
        return False
    return True


def private_folder(mebibytes: int, files: int) -> None:
    """A mount namespace with an empty `/tmp` of its own, bounded in bytes and names."""
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWIPC)
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("tmpfs", PRIVATE, "tmpfs", flags, f"size={mebibytes}m,nr_inodes={files},mode=700")


def _first_to_go(process: int) -> None:
    """If the machine runs out of memory, the kernel ends these processes first."""
    handle = os.open("oom_score_adj", os.O_WRONLY, dir_fd=process)
    os.write(handle, b"1000")
    os.close(handle)


def _map(process: int, user: int, group: int) -> None:
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{_INSIDE} {user} 1"),
        ("gid_map", f"{_INSIDE} {group} 1"),
    ):
        handle = os.open(name, os.O_WRONLY, dir_fd=process)
        os.write(handle, text.encode())
        os.close(handle)


def _folders() -> list[str]:
    """What programs can read: Python's library and the shared libraries it loads."""
    paths = sysconfig.get_paths()
    own = [paths["stdlib"], paths["platstdlib"], f"{sys.base_prefix}/lib", f"{sys.base_exec_prefix}/lib"]
    found = {os.path.normpath(path) for path in (*own, *_SYSTEM) if os.path.isdir(path)}
    # Inner ones come with the outer ones.
    return sorted(path for path in found if not any(path.startswith(other + "/") for other in found - {path}))


def _build() -> None:
    """A new root: the folders, read-only, without the packages installed beside the library."""
    folders = _folders()
    stage = next(s for s in _STAGES if os.path.isdir(s) and not any(f.startswith(s + "/") for f in folders))
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    hidden = [path for folder in folders if not os.path.islink(folder) for path in _packages(folder)]
    kernel.mount("tmpfs", stage, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    for folder in folders:
        if os.path.islink(folder):
            os.symlink(os.readlink(folder), stage + folder)
            continue
        os.makedirs(stage + folder, exist_ok=True)
        kernel.mount(folder, stage + folder, None, kernel.MS_BIND | kernel.MS_REC)
        kernel.mount_read_only(stage + folder)
    for path in hidden:
        kernel.mount("tmpfs", stage + path, "tmpfs", kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV, "size=4k")
    os.makedirs(stage + PRIVATE, exist_ok=True)
    os.makedirs(f"{stage}/dev")
    with open(f"{stage}/dev/null", "w"):
        pass
    kernel.mount("/dev/null", f"{stage}/dev/null", None, kernel.MS_BIND)
    kernel.pivot_to(stage)
    kernel.mount_read_only("/", recursive=False)


def _packages(folder: str) -> list[str]:
    """Folders of installed packages below a folder of libraries: no part of the standard library."""
    patterns = ("", "/python3*", "/python3*/*")
    names = ("site-packages", "dist-packages")
    found = {path for pattern in patterns for name in names for path in glob.glob(f"{folder}{pattern}/{name}")}
    return sorted(path for path in found if os.path.isdir(path) and not os.path.islink(path))
