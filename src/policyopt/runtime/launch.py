"""Starting the processes that train one run, and ending all of them when one fails."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.rendezvous import rendezvous
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from policyopt.runtime.interrupt import handled
from policyopt.runtime.pulse import BEAT, Pulses, Store
from policyopt.runtime.ranks import RankError, joined

FROZEN = 180.0  # seconds without a sign of life after which a run is ended
ENDING = 15.0  # seconds that the others have to end by themselves when one has failed

Work = Callable[..., None]
"""work(ranks, *given): what a rank does. A function of a module, as other processes must find it."""


def under_torchrun() -> bool:
    """Whether a launcher (torchrun) has started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(count: int, work: Work, given: tuple[Any, ...], deadline: float) -> None:
    """Run `work` on `count` new processes of this machine, rank 0 with this one's terminal, until all have ended.

    Raises RankError (naming rank and phase) if one fails, dies or freezes; the others are ended then. Ctrl-C is for
    rank 0 alone, which ends in order.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    begun = start_processes(
        _begin, (count, store.port, deadline, work, given), nprocs=count, join=False, start_method="spawn"
    )
    assert begun is not None
    processes: list[Any] = begun.processes
    pulses = Pulses(store, count)
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # it tells whom it ends; so do our errors
    with _signals_for(begun.pids()[0]):
        try:
            while not begun.join(timeout=BEAT, grace_period=ENDING):
                for rank in pulses.frozen(FROZEN):
                    if not processes[rank].is_alive():
                        continue  # it has ended in order
                    raise RankError(
                        f"rank {rank} has given no sign of life for {FROZEN:g} s, last in {pulses.phase(rank)}; all "
                        "processes of the run were ended. Go on from the last checkpoint"
                    )
        except (ProcessRaisedException, ProcessExitedException) as error:
            code = getattr(error, "exit_code", 1)
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise cause(store, count, pulses, error.error_index, how, lost=code < 0) from None
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join()


def on_this_rank(work: Work, given: tuple[Any, ...], deadline: float) -> None:
    """The same for a process that torchrun has started."""
    store, rank, count = next(rendezvous("env://", timeout=timedelta(seconds=deadline)))
    with joined(rank, count, store, deadline) as ranks:
        work(ranks, *given)


def _begin(rank: int, count: int, port: int, deadline: float, work: Work, given: tuple[Any, ...]) -> None:
    """A new process. What goes wrong is left at the store for the process that started this one."""
    if rank:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // count)))
    store = TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=60))
    if code := take_part(rank, count, store, deadline, work, given):
        sys.exit(code)


def take_part(rank: int, count: int, store: Store, deadline: float, work: Work, given: tuple[Any, ...]) -> int:
    """What a rank does from start to end; the exit code. What goes wrong is left at the store for who started it."""
    try:
        with joined(rank, count, store, deadline) as ranks:
            work(ranks, *given)
    except BaseException as error:  # noqa: BLE001 - told by the process that started this one
        told = {"module": type(error).__module__, "name": type(error).__name__, "text": str(error)}
        told |= {"notes": list(getattr(error, "__notes__", ())), "trace": traceback.format_exc()}
        with contextlib.suppress(RuntimeError, dist.DistError):
            store.set(_failed(rank), json.dumps(told))
        return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
    return 0


def _failed(rank: int) -> str:
    return f"failed/{rank}"


def cause(store: Store, count: int, pulses: Pulses, rank: int, how: str, *, lost: bool) -> Exception:
    """Of all that went wrong, what was not a consequence of the rest. how: a rank's process ended, the first of them;
    lost: something outside the program ended it."""
    told = {rank: json.loads(store.get(_failed(rank))) for rank in range(count) if store.check([_failed(rank)])}
    first = sorted(told, key=lambda rank: (told[rank]["name"] == "RankError", rank))
    if not first or (lost and told[first[0]]["name"] == "RankError"):
        return RankError(
            f"rank {rank} {how} in {pulses.phase(rank)}; the other processes of the run were ended. Go on from the "
            "last checkpoint"
        )
    said = told[first[0]]
    if said["name"] == "SystemExit" and said["text"].isdecimal():
        return StoppedError(int(said["text"]))
    if said["module"].startswith("policyopt."):
        found = RankError(said["text"])
    else:
        found = RankError(f"rank {first[0]} failed in {pulses.phase(first[0])}:\n{said['trace']}")
    for note in said["notes"]:
        found.add_note(note)
    return found


class StoppedError(Exception):
    """Rank 0 ended with an exit code of its own, having said why."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


@contextlib.contextmanager
def _signals_for(leader: int) -> Iterator[None]:
    """Ctrl-C reaches rank 0 by itself, as it has the same terminal; a SIGTERM is passed on to it."""

    def pass_on(number: int, frame: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(leader, number)

    with handled({signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: pass_on}):
        yield


def wait(store: Store, key: str, pulses: Pulses, of: int) -> str:
    """The value that another rank will leave at the store; RankError if that rank gives no sign of life meanwhile."""
    pause = 0.001  # short at first: between rounds rank 0 has something to say at once
    while not store.check([key]):
        if of in pulses.frozen(FROZEN):
            raise RankError(f"rank {of} has given no sign of life for {FROZEN:g} s, last in {pulses.phase(of)}")
        time.sleep(pause)
        pause = min(0.1, 1.2 * pause)
    return store.get(key).decode()
