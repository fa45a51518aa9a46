"""How a method is written down: parts, roles, terms, the method record and programs of several methods.

A method is a value. The loop in `train.py` runs it; nothing here runs anything.
"""

from policyopt.compose.method import (
    AXES,
    About,
    Method,
    Program,
    Stage,
    check,
)
from policyopt.compose.models import (
    Copy,
    Critic,
    Given,
    ModelSpec,
    QCritic,
    RewardModel,
    Scalar,
    StepDenoiser,
    Twin,
    frozen,
)
from policyopt.compose.parts import (
    Averaging,
    Chain,
    Coefficient,
    Loss,
    Nothing,
    Part,
    PerStep,
    chosen_rows,
    coefficient,
    trained_rows,
    trained_steps,
)
from policyopt.compose.protocols import (
    Cell,
    CompositionError,
    Context,
    MissingModelError,
    Policy,
    Seen,
    ValueModel,
    World,
)
from policyopt.compose.terms import (
    RECORDED,
    Role,
    Term,
)

__all__ = [
    "AXES",
    "RECORDED",
    "About",
    "Averaging",
    "Cell",
    "Chain",
    "Coefficient",
    "CompositionError",
    "Context",
    "Copy",
    "Critic",
    "Given",
    "Loss",
    "Method",
    "MissingModelError",
    "ModelSpec",
    "Nothing",
    "Part",
    "PerStep",
    "Policy",
    "Program",
    "QCritic",
    "RewardModel",
    "Role",
    "Scalar",
    "Seen",
    "Stage",
    "StepDenoiser",
    "Term",
    "Twin",
    "ValueModel",
    "World",
    "check",
    "chosen_rows",
    "coefficient",
    "frozen",
    "trained_rows",
    "trained_steps",
]
