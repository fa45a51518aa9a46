"""Which engine generates for a policy in a world."""

from __future__ import annotations

import warnings
from typing import Any

from policyopt.engines.control import ControlEngine
from policyopt.engines.native import EngineError, NativeEngine, native_obstacle
from policyopt.engines.plain import generate
from policyopt.engines.transformers import TransformersEngine
from policyopt.policies.language import Language
from policyopt.worlds.gymnasium import EnvironmentWorld
from policyopt.worlds.tokens import TokenWorld

ENGINES = ("auto", "native", "transformers", "plain")


class SlowerEngineWarning(UserWarning):
    """A run works, but not with the fastest engine."""


def engine_for(policy: Any, world: Any, name: str = "auto") -> Any:
    """The engine of a name; "auto" takes the fastest that equals `plain` here, and warns if it is not the native
    one. EngineError: an unknown name, or an engine that can not serve these."""
    if name not in ENGINES:
        raise EngineError(f"engine is one of {', '.join(ENGINES)}, not {name!r}")
    if name == "plain":
        return generate
    if name == "auto" and isinstance(world, EnvironmentWorld):
        return ControlEngine()
    text = isinstance(policy, Language) and isinstance(world, TokenWorld)
    if name == "auto" and not text:
        return generate
    if name == "transformers":
        if not text:
            raise EngineError(
                f"the transformers engine generates text, not steps of {type(policy).__name__} in "
                f"{type(world).__name__}; use engine=plain"
            )
        return TransformersEngine()
    obstacle = native_obstacle(policy, world)
    if obstacle is None:
        return NativeEngine()
    if name == "native":
        raise EngineError(f"the native engine can not generate here: {obstacle}; use engine=transformers")
    warnings.warn(f"generating with transformers, which is slower: {obstacle}", SlowerEngineWarning, stacklevel=2)
    return TransformersEngine()
