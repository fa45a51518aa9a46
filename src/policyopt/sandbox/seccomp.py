"""The system calls that a program may make; every other one fails with EPERM (a seccomp filter, Linux).

What a Python program of one process needs: files, memory, threads, clocks, signals, pipes. So there is no new process
or program, no namespace or mount, no socket but a connected pair, no tracing, no keyring, bpf, io_uring, userfaultfd,
no anonymous memory file, and nothing that a kernel adds in the future.
"""

from __future__ import annotations

import functools
import platform
import struct

# name, number on x86_64, number on aarch64 ("-": the architecture has no such call)
_ALLOWED = """
read 0 63, write 1 64, close 3 57, fstat 5 80, newfstatat 262 79, stat 4 -, lstat 6 -, statx 332 291, lseek 8 62,
pread64 17 67, pwrite64 18 68, readv 19 65, writev 20 66, preadv 295 69, pwritev 296 70, open 2 -, openat 257 56,
creat 85 -, close_range 436 436, access 21 -, faccessat 269 48, faccessat2 439 439, readlink 89 -,
readlinkat 267 78, getdents64 217 61, getcwd 79 17, chdir 80 49, fchdir 81 50, mkdir 83 -, mkdirat 258 34,
rmdir 84 -, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276, symlink 88 -,
symlinkat 266 36, link 86 -, linkat 265 37, truncate 76 45, ftruncate 77 46, fallocate 285 47, fsync 74 82,
fdatasync 75 83, umask 95 166, chmod 90 -, fchmod 91 52, fchmodat 268 53, utimensat 280 88, statfs 137 43,
fstatfs 138 44, flock 73 32, sendfile 40 71, copy_file_range 326 285, dup 32 23, dup2 33 -, dup3 292 24,
pipe 22 -, pipe2 293 59, fcntl 72 25, poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, epoll_create1 291 20,
epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22, eventfd2 290 19,
sendto 44 206, recvfrom 45 207, shutdown 48 210, getsockopt 55 209, getsockname 51 204, getpeername 52 205,
mmap 9 222, munmap 11 215, mprotect 10 226, mremap 25 216, madvise 28 233, brk 12 214, mincore 27 232,
msync 26 227, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136,
rt_sigtimedwait 128 137, rt_sigsuspend 130 133, sigaltstack 131 132, kill 62 129, tgkill 234 131, tkill 200 130,
pause 34 -, alarm 37 -, setitimer 38 103, getitimer 36 102, timer_create 222 107, timer_settime 223 110,
timer_gettime 224 108, timer_delete 226 111, timer_getoverrun 225 109, nanosleep 35 101, clock_nanosleep 230 115,
clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169, time 201 -, times 100 153, getrandom 318 278,
getpid 39 172, getppid 110 173, gettid 186 178, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177,
getresuid 118 148, getresgid 120 150, getgroups 115 158, getpgrp 111 -, getpgid 121 155, getsid 124 156,
setsid 112 157, setpgid 109 154, getrlimit 97 163, prlimit64 302 261, getrusage 98 165, sysinfo 99 179,
uname 63 160, getcpu 309 168, sched_yield 24 124, sched_getaffinity 204 123, sched_getparam 143 121,
sched_getscheduler 145 120, getpriority 140 141, futex 202 98, set_robust_list 273 99, get_robust_list 274 100,
set_tid_address 218 96, rseq 334 293, membarrier 324 283, arch_prctl 158 -, restart_syscall 219 128,
wait4 61 260, waitid 247 95, exit 60 93, exit_group 231 94
"""
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Allowed with some arguments only: (x86_64, aarch64).
_CLONE, _CLONE3, _SOCKETPAIR, _IOCTL, _PRCTL = (56, 220), (435, 435), (53, 199), (16, 29), (157, 167)
_CLONE_THREAD = 0x10000
_NEW_NAMESPACES = 0x7E020080
_AF_UNIX, _SOCK_STREAM, _TYPE_BITS = 1, 1, 0xF
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIO(N)CLEX
_PRCTLS = (15, 16)  # set and get a thread's name

_EPERM, _ENOSYS = 1, 38
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQUAL, _ANY_BIT, _RETURN, _AND = 0x20, 0x15, 0x45, 0x06, 0x54
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _argument(index: int) -> bytes:
    """Load the low half of an argument."""
    return _instruction(_LOAD, 16 + 8 * index)


_PASS = _instruction(_RETURN, _ALLOW)
_REFUSE = _instruction(_RETURN, _ERROR | _EPERM)


def _for(number: int, body: bytes) -> bytes:
    """Run the body, which returns, for this system call."""
    return _instruction(_EQUAL, number, 0, len(body) // 8) + body


def _one_of(values: tuple[int, ...], index: int) -> bytes:
    tests = b"".join(_instruction(_EQUAL, value, 0, 1) + _PASS for value in values)
    return _argument(index) + tests + _REFUSE


def _threads() -> bytes:
    """A thread of this process, in no new namespace."""
    thread = _instruction(_ANY_BIT, _CLONE_THREAD, 1, 0) + _REFUSE
    return _argument(0) + thread + _instruction(_ANY_BIT, _NEW_NAMESPACES, 0, 1) + _REFUSE + _PASS


def _pairs() -> bytes:
    """Connected pairs of streams: asyncio wakes itself up with one."""
    family = _argument(0) + _instruction(_EQUAL, _AF_UNIX, 1, 0) + _REFUSE
    kind = _argument(1) + _instruction(_AND, _TYPE_BITS) + _instruction(_EQUAL, _SOCK_STREAM, 1, 0) + _REFUSE
    return family + kind + _PASS


def supported() -> bool:
    return platform.machine() in _ARCHITECTURES


@functools.cache
def program() -> bytes:
    """The filter for this machine, an array of ``struct sock_filter``."""
    column = list(_ARCHITECTURES).index(platform.machine())
    numbers = [row.split()[1 + column] for row in _ALLOWED.replace("\n", " ").split(",") if row.strip()]
    checked = _instruction(_EQUAL, _ARCHITECTURES[platform.machine()], 1, 0) + _instruction(_RETURN, _KILL)
    rules = [
        _for(_CLONE[column], _threads()),
        # The C library falls back to clone, whose flags can be read.
        _for(_CLONE3[column], _instruction(_RETURN, _ERROR | _ENOSYS)),
        _for(_SOCKETPAIR[column], _pairs()),
        _for(_IOCTL[column], _one_of(_IOCTLS, 1)),
        _for(_PRCTL[column], _one_of(_PRCTLS, 0)),
    ]
    allowed = [_for(int(number), _PASS) for number in numbers if number != "-"]
    loads = _instruction(_LOAD, _ARCHITECTURE_AT) + checked + _instruction(_LOAD, _NUMBER_AT)
    return loads + b"".join(allowed) + b"".join(rules) + _REFUSE
