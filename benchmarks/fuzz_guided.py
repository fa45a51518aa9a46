"""The inputs of fuzz.py, led by what they reach of policyopt (libFuzzer, by way of atheris).

    pip install atheris    # wheels for Python 3.11 to 3.13 on Linux
    python benchmarks/fuzz_guided.py "recorded episodes" [--seconds 60]

One target, in this process, so that what it reaches is seen. Exit code 1 on a defect.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent))
with atheris.instrument_imports(include=["policyopt", "minari"]):
    import fuzz
    from fuzzing import targets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="the beginning of its name")
    parser.add_argument("--seconds", type=float, default=60.0)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    targets.apart = lambda act: act()
    target = next(one for name, one in targets.TARGETS.items() if name.startswith(asked.target))
    folder, count, end = (
        Path(tempfile.mkdtemp(prefix="policyopt-fuzz-")),
        fuzz.Count(),
        time.monotonic() + asked.seconds,
    )
    inputs = target.inputs(folder)

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def run(data: st.DataObject) -> None:
        fuzz.one(target, folder, data.draw(inputs), count)

    def told(code: int) -> None:
        refused = sum(count.refused.values())
        print(
            f"| {target.name} | {count.inputs} | {count.taken} | {refused} | {1000 * count.slowest:.0f} |", flush=True
        )
        os._exit(code)  # libFuzzer does not return

    def one(content: bytes) -> None:
        try:
            run.hypothesis.fuzz_one_input(content)  # pyright: ignore[reportFunctionMemberAccess]
        except fuzz.Defect as defect:
            print(f"{defect}\nfrom {content!r:.2000}")
            told(1)
        if time.monotonic() > end:
            told(0)

    atheris.Setup([sys.argv[0], "-max_len=4096", "-len_control=0", f"-artifact_prefix={folder}/"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
