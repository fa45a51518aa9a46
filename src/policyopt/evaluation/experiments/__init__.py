"""Small experiments that a claim can name: seconds an arm on one core, through the real loop and the real methods.

An experiment is a public function of a module of this folder that returns an `Outcome`:

    experiment(method: Method, seed: int, rounds: int, **given) -> Outcome

It is found by scanning the folder, so adding one edits no other file. The seed fixes the world, the initial policy
and the run; two arms with one seed face the same world.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable

from policyopt.claim import Claim, ClaimError
from policyopt.evaluation.experiments._common import Outcome

Experiment = Callable[..., Outcome]


def experiments() -> dict[str, Experiment]:
    """Every experiment by name."""
    found: dict[str, Experiment] = {}
    for info in pkgutil.iter_modules(__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{__name__}.{info.name}")
        for name, value in vars(module).items():
            own = inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
            if own and inspect.signature(value).return_annotation in (Outcome, "Outcome"):
                if name in found:  # a claim would be judged by another experiment than it states
                    raise ClaimError(
                        f"experiments have names of their own, and {name!r} stands in {found[name].__module__} and in "
                        f"{module.__name__}; rename one"
                    )
                found[name] = value
    return found


def experiment_of(claim: Claim) -> Experiment:
    """The function that a claim names."""
    if not isinstance(claim.experiment, str):
        return claim.experiment
    known = experiments()
    if claim.experiment not in known:
        near = difflib.get_close_matches(claim.experiment, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ClaimError(f"no experiment {claim.experiment!r}; {hint}there are {sorted(known)}")
    return known[claim.experiment]
