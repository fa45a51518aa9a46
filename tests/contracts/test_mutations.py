"""The tests tested: every planted bug must be rejected by each test that is named for it."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

# The rejecting tests live in neighbouring folders, which pytest adds to the path only when it collects them.
TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / folder) for folder in ("parts", "methods") if str(TESTS / folder) not in sys.path]

import mutants  # noqa: E402
from mutants import MUTANTS, Mutant, Patch  # noqa: E402

for path in sorted(Path(__file__).parent.glob("mutants_*.py")):
    importlib.import_module(path.stem)

pytestmark = pytest.mark.usefixtures("float64")

TRAPS = {*range(1, 15), *range(20, 27), 28, 34, 35, *range(37, 43), 46, 49, *range(51, 59)}


def check(name: str) -> Callable[[], None]:
    """A test function by "module::name"."""
    module, function = name.split("::")
    return getattr(importlib.import_module(module), function)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_rejected(mutant: Mutant) -> None:
    for name in mutant.rejected_by:
        rejects = check(name)  # imported before the bug is planted
        with pytest.MonkeyPatch.context() as monkeypatch:
            mutant.plant(Patch(monkeypatch))
            try:
                rejects()
            except AssertionError:
                continue
            except pytest.fail.Exception:  # `pytest.raises` saw nothing
                continue
        pytest.fail(f"{name} passes with {mutant.name} planted")


def test_every_trap_has_a_mutant_and_a_test() -> None:
    planted = {trap for mutant in MUTANTS for trap in mutant.traps}
    assert planted >= TRAPS, f"no mutant for traps {sorted(TRAPS - planted)}"
    names = " ".join(name for module in mutants.TRAP_MODULES for name in vars(importlib.import_module(module)))
    untested = [trap for trap in sorted(TRAPS) if f"test_trap_{trap:02d}_" not in names]
    assert not untested, f"no test for traps {untested}"


def test_names_are_unique_and_the_suite_is_large() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names) >= 35
    assert torch.get_default_dtype() == torch.float64
