"""Heads of control policies by name. See `head`."""

from __future__ import annotations

from policyopt.compose import CompositionError
from policyopt.policies.continuous_heads import (
    BetaHead,
    DeterministicHead,
    GaussianHead,
    SquashedHead,
    StateGaussianHead,
)
from policyopt.policies.discrete_heads import CategoricalHead, MultiCategoricalHead, QHead
from policyopt.policies.head import Head
from policyopt.policies.spaces import Actions, Box, Discrete, Multi

HEADS: dict[str, type[Head]] = {
    head.name: head
    for head in (
        CategoricalHead,
        QHead,
        MultiCategoricalHead,
        GaussianHead,
        StateGaussianHead,
        SquashedHead,
        DeterministicHead,
        BetaHead,
    )
}


def head_for(actions: Actions, head: Head | str = "auto") -> Head:
    """A head by name (with its default options), or the head itself, checked against the actions. "auto": categorical,
    multi_categorical or gaussian."""
    if head == "auto":
        head = {Discrete: "categorical", Multi: "multi_categorical", Box: "gaussian"}[type(actions)]
    if isinstance(head, str):
        if head not in HEADS:
            raise CompositionError(f"head is one of auto, {', '.join(HEADS)}, not {head!r}")
        head = HEADS[head]()
    head.check(actions)
    return head
