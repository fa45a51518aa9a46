"""Kernels for processors, made by the machine's C compiler and kept in the user's cache folder.

Without a compiler whoever asks does the same in torch.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch

_HERE = Path(__file__).parent
# Sums may be reordered and products fused into them (as torch's are), but nan and infinity keep their meaning.
_FLAGS = (
    "-O3 -march=native -std=c11 -fPIC -fopenmp -ffp-contract=fast -fno-math-errno -fno-trapping-math "
    "-fassociative-math -fno-signed-zeros"
)
_TYPES = {torch.float32: "float", torch.float64: "double"}
_ROWS_TO_SHARE = 8  # fewer are done by one thread


class CompilerWarning(UserWarning):
    """The kernels could not be compiled; torch's operations are slower and give the same."""


def threads(rows: int) -> int:
    return torch.get_num_threads() if rows >= _ROWS_TO_SHARE else 1


@functools.cache
def library(name: str, dtype: torch.dtype, low: torch.dtype) -> ctypes.CDLL | None:
    """`name`.c for states of one type and products of another; None: no compiler, or not for these types."""
    if dtype not in _TYPES or low not in (dtype, torch.bfloat16) or (low == torch.bfloat16 and dtype != torch.float32):
        return None
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None or platform.system() != "Linux":
        return None
    defines = [f"-DREAL={_TYPES[dtype]}", *(["-DLOW_BFLOAT16"] if low != dtype else [])]
    source = _HERE / f"{name}.c"
    texts = [source.read_text(), (_HERE / "common.h").read_text()]
    told = "\n".join([*texts, compiler, _FLAGS, *defines, torch.__version__, _processor()])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "policyopt"
    path = folder / f"{name}-{hashlib.blake2b(told.encode(), digest_size=12).hexdigest()}.so"
    try:
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            _compile(compiler, defines, source, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        warnings.warn(f"{name} goes on without compiled kernels: {compiler}: {said}", CompilerWarning, stacklevel=4)
        return None


def _compile(compiler: str, defines: list[str], source: Path, path: Path) -> None:
    # torch's own OpenMP: two of them in one process would wait for each other's cores.
    bundled = Path(torch.__file__).parent / "lib" / "libgomp.so.1"
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made, linked = Path(folder) / "kernels.o", Path(folder) / path.name
        commands = [
            [compiler, *_FLAGS.split(), *defines, "-c", str(source), "-o", str(made)],
            [compiler, "-shared", str(made), str(bundled) if bundled.is_file() else "-lgomp", "-lm", "-o", str(linked)],
        ]
        for command in commands:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        linked.replace(path)  # whole or not at all, whatever other processes do


def _processor() -> str:
    """What -march=native depends on."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return line
    return platform.machine()
