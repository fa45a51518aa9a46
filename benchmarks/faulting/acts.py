"""What is done to a run: to its processes while it goes on, to its files while it does not, to what it stands on."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faulting.processes import of_kind, waking

HERE = Path(__file__).resolve().parent
FROZEN = 4.0  # seconds


class Judge:
    """The judge server, which can be ended and started again at the same place."""

    def __init__(self, base: Path):
        self.base, self.port = base, 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, str(HERE / "judge_server.py"), str(self.port), str(self.base)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@dataclass
class Scene:
    """Where a fault happens. run: its first process."""

    base: Path
    run: int
    rng: random.Random
    judge: Judge | None = None

    def targets(self, kind: str) -> list[int]:
        if kind == "judge server":
            assert self.judge is not None
            return [self.judge.process.pid]
        return of_kind(kind, self.run)

    def one(self, kind: str) -> int:
        """A process of a kind, once there is one; 0: there was none."""
        found: list[int] = []
        waking(lambda: bool(found.extend(self.targets(kind)) or found), 20)
        return self.rng.choice(found) if found else 0


Act = Callable[[Scene, str], bool]
"""act(scene, kind): whether it hit anything."""


def _signal(process: int, number: int) -> bool:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return False
    return True


def kill(scene: Scene, kind: str) -> bool:
    return (target := scene.one(kind)) != 0 and _signal(target, signal.SIGKILL)


def interrupt(scene: Scene, kind: str) -> bool:
    return (target := scene.one(kind)) != 0 and _signal(target, signal.SIGINT)


def terminate(scene: Scene, kind: str) -> bool:
    return (target := scene.one(kind)) != 0 and _signal(target, signal.SIGTERM)


def freeze(scene: Scene, kind: str) -> bool:
    """For some seconds."""
    target = scene.one(kind)
    if not target or not _signal(target, signal.SIGSTOP):
        return False
    time.sleep(FROZEN)
    _signal(target, signal.SIGCONT)
    return True


def freeze_for_good(scene: Scene, kind: str) -> bool:
    return (target := scene.one(kind)) != 0 and _signal(target, signal.SIGSTOP)


def slow(scene: Scene, kind: str) -> bool:
    """A third of its speed, for some seconds."""
    target, end = scene.one(kind), time.monotonic() + FROZEN
    hit = False
    while target and time.monotonic() < end and _signal(target, signal.SIGSTOP):
        hit = True
        time.sleep(0.08)
        _signal(target, signal.SIGCONT)
        time.sleep(0.04)
    return hit


def starve(scene: Scene, kind: str) -> bool:
    """It can open nothing more: no file, no pipe, no socket."""
    target = scene.one(kind)
    if not target:
        return False
    resource.prlimit(target, resource.RLIMIT_NOFILE, (3, 4096))
    return True


def _misbehave(way: str) -> Act:
    def act(scene: Scene, kind: str) -> bool:
        if kind == "judge server":
            file, word, seconds = scene.base / "judge", way, 1.0
        else:
            target = scene.one(kind)
            file, word, seconds = scene.base / "fault", f"{target} {way}", 2.0
        partial = file.with_suffix(".partial")
        partial.write_text(word)
        partial.replace(file)
        time.sleep(seconds)
        file.unlink()
        return True

    return act


disconnect, corrupt = _misbehave("disconnect"), _misbehave("corrupt")


def restart(scene: Scene, kind: str) -> bool:
    """Killed, and back after a moment."""
    assert scene.judge is not None
    scene.judge.end()
    time.sleep(scene.rng.uniform(0.2, 1.5))
    scene.judge.start()
    return True


# -- files of a run that does not run ----------------------------------------------------------------------------------
Damage = Callable[[Path, random.Random], None]


def _checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("round-*.ckpt"))


def _cut(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def _flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(content))


def truncated(run: Path, rng: random.Random) -> None:
    """The newest checkpoint."""
    _cut(_checkpoints(run)[-1], rng)


def flipped(run: Path, rng: random.Random) -> None:
    """One bit of the newest checkpoint."""
    _flip(_checkpoints(run)[-1], rng)


def all_truncated(run: Path, rng: random.Random) -> None:
    """Every checkpoint."""
    for path in _checkpoints(run):
        _cut(path, rng)


def half_line(run: Path, rng: random.Random) -> None:
    """A last line of metrics, samples and costs that was never finished."""
    for name in ("metrics", "samples", "cost"):
        path = run / f"{name}.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines) + lines[-1][: rng.randrange(1, len(lines[-1]))])


def zeros(run: Path, rng: random.Random) -> None:
    """What a power cut leaves at the end of metrics and samples."""
    for name in ("metrics", "samples"):
        with (run / f"{name}.jsonl").open("ab") as file:
            file.write(bytes(rng.randrange(1, 4096)))


def result_cut(run: Path, rng: random.Random) -> None:
    """A recorded result."""
    for path in sorted((run / "results").glob("*.json"))[:1]:
        path.write_bytes(path.read_bytes()[:-3])


def recipe_cut(run: Path, rng: random.Random) -> None:
    """The resolved recipe."""
    path = run / "recipe.yaml"
    path.write_bytes(path.read_bytes()[: rng.randrange(20, 60)] + b"\n: [")


# -- what a run stands on ----------------------------------------------------------------------------------------------
_libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 1, 32, 4096, 16384, 1 << 18


def own_mounts() -> bool:
    """Whether this process now mounts what nobody else sees (it takes root's rights)."""
    if sys.platform != "linux" or _libc.unshare(CLONE_NEWNS) != 0:
        return False
    return _libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0


def _mount(source: str, target: Path, kind: str | None, flags: int, options: str | None = None) -> None:
    texts = [None if text is None else text.encode() for text in (source, str(target), kind)]
    if _libc.mount(*texts, flags, None if options is None else options.encode()) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")


def small_disk(base: Path, kibibytes: int) -> None:
    _mount("tmpfs", base, "tmpfs", 0, f"size={kibibytes}k")


def larger_disk(base: Path) -> None:
    _mount("tmpfs", base, "tmpfs", MS_REMOUNT, "size=64m")


def unmount(path: Path) -> None:
    while _libc.umount2(str(path).encode(), 2) == 0:
        pass


def read_only(path: Path) -> None:
    _mount(str(path), path, None, MS_BIND)
    _mount(str(path), path, None, MS_BIND | MS_REMOUNT | MS_RDONLY)


def largest_file(kibibytes: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (kibibytes << 10, kibibytes << 10))


FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
"""Debian's package `faketime`."""


def false_clock(base: Path) -> dict[str, str]:
    """Environment of a process whose clock is the file `clock` of a folder. The monotonic clock never jumps."""
    (base / "clock").write_text("+0")
    return {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(base / "clock"),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def jump(base: Path, seconds: int) -> None:
    (base / "clock.new").write_text(f"{seconds:+d}")
    os.replace(base / "clock.new", base / "clock")


def copied(run: Path) -> Path:
    """A copy to put back from."""
    kept = run.with_name("kept")
    shutil.copytree(run, kept)
    return kept


def put_back(run: Path, kept: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(run)
    kept.rename(run)
