"""Writes the conformance vectors that ship with the package: `python tests/contracts/make_vectors.py [FOLDER]`.

Inputs are drawn from a seeded generator and rounded to three decimals; expected numbers come from
`reference_formulas`, which shares no code with the library. Padding is null, so that nothing can depend on it.
"""

import json
import sys
from importlib import import_module
from pathlib import Path

from vector_losses import constraint, objective
from vector_rows import credit, feedback, reward, selection, update

FOLDER = Path(__file__).parents[2] / "src" / "policyopt" / "evaluation" / "vectors"

FILES = {make.__name__: make for make in (objective, constraint, credit, reward, feedback, selection, update)}
# Cases of one subject may stand in a file of their own: vectors_SUBJECT.py with `cases()`.
for _path in sorted(Path(__file__).parent.glob("vectors_*.py")):
    FILES[_path.stem.removeprefix("vectors_")] = import_module(_path.stem).cases


def text(name):
    """One line per input and output, so that a difference can be read."""
    cases = []
    for one in FILES[name]():
        lines = []
        for key, value in one.items():
            if key in ("inputs", "expect"):
                held = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in value.items())
                lines.append(f'   "{key}": {{\n{held}\n   }}')
            else:
                lines.append(f'   "{key}": {json.dumps(value, allow_nan=False)}')
        cases.append("  {\n" + ",\n".join(lines) + "\n  }")
    return '{\n "version": 1,\n "cases": [\n' + ",\n".join(cases) + "\n ]\n}\n"


def main(folder=FOLDER):
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / f"{name}.json").write_text(text(name), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
