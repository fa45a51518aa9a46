"""Install the pinned torch into the running interpreter's environment, never pulling CUDA by accident.

On Linux the package index usually serves torch's CUDA build: gigabytes that a machine without a GPU can not
use. So pip is first asked, without downloading, what the pinned torch would bring; where it brings CUDA
libraries the CPU build is taken from PyTorch's own index. A machine with a GPU names the build it wants:
`make setup TORCH_INDEX=https://download.pytorch.org/whl/cu130`.

Usage: python tools/install_torch.py CONSTRAINTS [INDEX]
"""

import json
import subprocess
import sys

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA_PACKAGES = ("nvidia-", "cuda-", "triton")


def pip_install(*arguments: str) -> list[str]:
    """The command that installs torch alone; its dependencies come later, with those of policyopt."""
    return [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *arguments, "torch"]


def brings_cuda(constraints: str) -> bool:
    """Whether the pinned torch, as the usual index serves it to this machine, needs CUDA libraries."""
    planned = subprocess.run(
        pip_install("-c", constraints, "--dry-run", "--report", "-"), check=True, stdout=subprocess.PIPE
    )
    wheels = json.loads(planned.stdout)["install"]  # empty when the environment already has this torch
    requirements = [line for wheel in wheels for line in wheel["metadata"].get("requires_dist", [])]
    return any(line.startswith(CUDA_PACKAGES) for line in requirements)


def main(constraints: str, index: str = "") -> None:
    """Install torch from `index`, or, without one, from whichever index has a build free of CUDA.

    macOS and Windows wheels are CPU builds (with Metal on macOS), so only Linux is asked.
    """
    if not index and sys.platform == "linux" and brings_cuda(constraints):
        index = CPU_INDEX
    source = ["--index-url", index] if index else []
    done = subprocess.run(pip_install("-c", constraints, *source))
    if done.returncode != 0:
        sys.exit(
            f"error: torch could not be installed from {index or 'the usual package index'} (pip's reason is "
            "above). Name an index that this machine reaches: make setup TORCH_INDEX=URL"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
