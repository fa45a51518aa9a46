"""The warm process from which programs are forked, run as a script: ``zygote.py DESCRIPTOR isolated|unsafe``.

It isolates itself, loads what programs often import, says so on its socket, and forks a warden for every request, which
is a line of limits with seven descriptors: the program's 0 to 5 and the warden's channel. It never reads a program, an
input or an output: a fork has nothing of earlier ones in its memory.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

_WARM = (
    "ast bisect calendar collections.abc copy ctypes dataclasses datetime decimal enum fractions functools hashlib "
    "heapq inspect itertools math numbers operator queue random re statistics string textwrap threading traceback "
    "types typing"
)
DESCRIPTORS = 7
OUR_OWN = "policyopt"


def _as_package() -> None:
    """Make our modules importable by their names without the package's own imports."""
    here = os.path.dirname(os.path.abspath(__file__))
    for name, folder in ((OUR_OWN, os.path.dirname(here)), (f"{OUR_OWN}.sandbox", here)):
        module = ModuleType(name)
        module.__path__ = [folder]
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        sys.modules[name] = module


def _start(channel: socket.socket, *, isolated: bool) -> None:
    """Isolate this process; what returns is the first process inside."""
    from policyopt.sandbox import kernel, root

    if not isolated:
        return
    root.enter()
    child = os.fork()
    if child:
        channel.close()
        _, status = os.waitpid(child, 0)
        os._exit(max(os.waitstatus_to_exitcode(status), 0))
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    kernel.bound_privileges()
    os.setsid()


def _received(channel: socket.socket) -> tuple[bytes, list[int]]:
    handles = array.array("i")
    line, ancillary, _, _ = channel.recvmsg(4096, socket.CMSG_SPACE(DESCRIPTORS * handles.itemsize))
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            handles.frombytes(data[: len(data) - len(data) % handles.itemsize])
    return line, list(handles)


def _serve(channel: socket.socket, *, isolated: bool) -> None:
    from policyopt.sandbox import program, warden

    for name in [name for name in sys.modules if name.split(".")[0] == OUR_OWN]:
        del sys.modules[name]  # programs shall not import us
    while True:
        line, given = _received(channel)
        _reap()
        if not line:
            os._exit(0)
        if os.fork() == 0:
            channel.close()
            *streams, control = given
            with contextlib.suppress(BaseException):
                warden.watch(program.run, json.loads(line), streams, control, isolated=isolated)
            os._exit(0)
        for handle in given:
            os.close(handle)
        channel.send(b"k")


def _reap() -> None:
    """Take leave of the wardens that ended; their use of the processor then counts as this process's."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main() -> None:
    _as_package()
    descriptor, mode = sys.argv[1:]
    channel = socket.socket(fileno=int(descriptor))
    sys.dont_write_bytecode = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        from policyopt.sandbox import program, seccomp, warden  # noqa: F401 - none of our files exists inside

        _start(channel, isolated=mode == "isolated")
    except OSError as error:
        sys.exit(f"cannot isolate: {error}")
    for name in _WARM.split():
        importlib.import_module(name)
    if mode == "isolated":
        seccomp.program()
    gc.collect()
    gc.freeze()
    channel.send(b"r")
    _serve(channel, isolated=mode == "isolated")


if __name__ == "__main__":
    main()
