"""Compiled parts of a decoding step on processors (`kernels.c`): one call where torch takes a dozen small operations.

A C compiler makes them once and the result is kept in the user's cache folder. Without a compiler the decoder does the
same in torch.
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
from jaxtyping import Float, Int
from torch import Tensor

_SOURCE = Path(__file__).with_name("kernels.c")
# Sums may be reordered and products fused into them (as torch's are), but nan and infinity keep their meaning.
_FLAGS = (
    "-O3 -march=native -std=c11 -fPIC -fopenmp -ffp-contract=fast -fno-math-errno -fno-trapping-math "
    "-fassociative-math -fno-signed-zeros"
)
_TYPES = {torch.float32: "float", torch.float64: "double"}
_ROWS_TO_SHARE, _PRODUCTS_TO_SHARE = 8, 2**17  # fewer are done by one thread


class CompilerWarning(UserWarning):
    """The kernels could not be compiled; torch's operations are slower and give the same."""


class _Attend(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("rows", "groups", "repeats", "dim", "low", "used", "capacity", "width")],
        *[(name, ctypes.c_int64) for name in ("window", "threads", "room")],
        ("cap", ctypes.c_double),
        *[(name, ctypes.c_void_p) for name in ("heads", "table", "position", "of", "start", "length")],
        *[(name, ctypes.c_void_p) for name in ("own_key", "own_value", "shared_key", "shared_value", "out", "scratch")],
    ]


class Kernels:
    """The kernels for states of one type. low: the type of what linear layers read and write and of the cache."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype, low: torch.dtype):
        self.dtype, self.low = dtype, low
        self._attend, self._norm, self._linear = library.attend, library.rms_norm, library.linear
        self._silu, self._choose = library.gated_silu, library.choose
        integer, real, pointer = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
        self._attend.argtypes = [pointer]
        self._norm.argtypes = [*[pointer] * 3, integer, integer, real, integer]
        self._silu.argtypes = [pointer, pointer, integer, integer, integer]
        self._choose.argtypes = [*[pointer] * 5, integer, integer, integer]
        self._linear.argtypes = [*[pointer] * 3, integer, pointer, pointer, *[integer] * 4]
        for function in (self._attend, self._norm, self._silu, self._choose, self._linear):
            function.restype = None
        self._panel, self._pair = int(library.panel()), int(library.pair())
        self._scratch = torch.empty(0, dtype=dtype)

    def packed(self, weight: Float[Tensor, "O I"]) -> Tensor | None:
        """A weight as `linear` reads it; None if it can not."""
        outputs, inputs = weight.shape
        if self._panel == 0 or weight.dtype != self.low or outputs % self._panel or inputs % self._pair:
            return None
        parts = weight.detach().view(outputs // self._panel, self._panel, inputs // self._pair, self._pair)
        return parts.transpose(1, 2).contiguous()

    def linear(
        self, x: Float[Tensor, "N I"], packed: Tensor, base: Tensor | None = None, *, high: bool = False
    ) -> Float[Tensor, "N O"]:
        """x weight^T + base (a bias, or a tensor of the result's shape) in `low`, or in `dtype` if `high`."""
        x = x.to(self.low).contiguous()
        rows, inputs, outputs = len(x), x.shape[1], packed.shape[0] * packed.shape[2]
        high = high or self.low == self.dtype
        out = torch.empty(rows, outputs, dtype=self.dtype if high else self.low)
        row = outputs if base is not None and base.dim() == 2 else 0
        places = (out.data_ptr(), None) if high else (None, out.data_ptr())
        given = None if base is None else base.data_ptr()
        # Panels, not rows, are shared by threads.
        threads = torch.get_num_threads() if rows * outputs * inputs > _PRODUCTS_TO_SHARE else 1
        self._linear(x.data_ptr(), packed.data_ptr(), given, row, *places, rows, inputs, outputs, threads)
        return out

    def rms_norm(self, x: Float[Tensor, "N D"], weight: Float[Tensor, " D"], epsilon: float) -> Float[Tensor, "N D"]:
        """x / sqrt(mean x^2 + epsilon) * weight, in `low`."""
        x = x.contiguous()
        out = torch.empty(x.shape, dtype=self.low)
        rows, size = x.shape
        self._norm(x.data_ptr(), weight.data_ptr(), out.data_ptr(), rows, size, epsilon, _threads(rows))
        return out

    def gated_silu(self, wide: Float[Tensor, "N 2*F"]) -> Float[Tensor, "N F"]:
        """silu(first half) * second half."""
        wide = wide.to(self.low).contiguous()
        rows, size = len(wide), wide.shape[1] // 2
        out = torch.empty(rows, size, dtype=self.low)
        self._silu(wide.data_ptr(), out.data_ptr(), rows, size, _threads(rows))
        return out

    def choose(
        self, logits: Float[Tensor, "R V"], heat: Float[Tensor, " R"], uniform: Float[Tensor, " R"]
    ) -> tuple[Int[Tensor, " R"], Float[Tensor, " R"]]:
        """Tokens from softmax(logits / heat) and their log-probabilities; logits are overwritten."""
        rows, size = logits.shape
        token, logp = torch.empty(rows, dtype=torch.int64), torch.empty(rows, dtype=torch.float64)
        columns = (logits, heat, uniform, token, logp)
        self._choose(*(column.data_ptr() for column in columns), rows, size, _threads(rows))
        return token, logp

    def attend(
        self,
        heads: Float[Tensor, "R G Q+2 D"],
        table: Tensor,
        rows: tuple[Tensor, Tensor, Tensor, Tensor],
        caches: tuple[Tensor, Tensor, Tensor, Tensor],
        columns: tuple[int, int],
        bounds: tuple[int, float],
    ) -> Float[Tensor, "R G*Q*D"]:
        """Rotary positions, writing of the new keys and values, and attention, of one more token per row.

        table: complex (positions, D / 2). rows: position, context and first own column of every row; length of every
        context. caches: own keys and values (rows, G, columns, D), contexts' keys and values (U, G, P, D). columns: the
        first and one behind the last that exist. bounds: window and cap, 0 for none.
        """
        count, groups, both, dim = heads.shape
        heads = heads.to(self.low).contiguous()
        out = torch.empty(count, groups * (both - 2) * dim, dtype=self.low)
        threads = _threads(count)
        width, (low, used) = caches[2].shape[2], columns
        room = 2 * dim + width + used - low
        if self._scratch.numel() < threads * room:
            self._scratch = torch.empty(2 * threads * room, dtype=self.dtype)
        tensors = (heads, table, *rows, *caches, out, self._scratch)
        sizes = (count, groups, both - 2, dim, low, used, caches[0].shape[2], width)
        call = _Attend(*sizes, bounds[0], threads, room, bounds[1], *(tensor.data_ptr() for tensor in tensors))
        self._attend(ctypes.byref(call))
        return out


def _threads(rows: int) -> int:
    return torch.get_num_threads() if rows >= _ROWS_TO_SHARE else 1


@functools.cache
def kernels(dtype: torch.dtype, low: torch.dtype) -> Kernels | None:
    """None: no compiler, or no kernels for these types."""
    if dtype not in _TYPES or low not in (dtype, torch.bfloat16) or (low == torch.bfloat16 and dtype != torch.float32):
        return None
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None or platform.system() != "Linux":
        return None
    defines = [f"-DREAL={_TYPES[dtype]}", *(["-DLOW_BFLOAT16"] if low != dtype else [])]
    library = _library(compiler, defines)
    return None if library is None else Kernels(library, dtype, low)


def _library(compiler: str, defines: list[str]) -> ctypes.CDLL | None:
    told = "\n".join([_SOURCE.read_text(), compiler, _FLAGS, *defines, torch.__version__, _processor()])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "policyopt"
    path = folder / f"kernels-{hashlib.blake2b(told.encode(), digest_size=12).hexdigest()}.so"
    try:
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            _compile(compiler, defines, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        warnings.warn(f"decoding without compiled kernels: {compiler}: {said}", CompilerWarning, stacklevel=4)
        return None


def _compile(compiler: str, defines: list[str], path: Path) -> None:
    # torch's own OpenMP: two of them in one process would wait for each other's cores.
    bundled = Path(torch.__file__).parent / "lib" / "libgomp.so.1"
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made, linked = Path(folder) / "kernels.o", Path(folder) / path.name
        commands = [
            [compiler, *_FLAGS.split(), *defines, "-c", str(_SOURCE), "-o", str(made)],
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
