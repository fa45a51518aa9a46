"""Which engine generates for a policy in a world."""

from __future__ import annotations

import warnings
from typing import Any

from policyopt.engines.control import ControlEngine
from policyopt.engines.native import Decoding, EngineError, NativeEngine, native_obstacle
from policyopt.engines.plain import generate
from policyopt.engines.transformers import TransformersEngine
from policyopt.engines.vllm import VllmEngine, vllm_obstacle
from policyopt.engines.vllm_model import VllmOptions, check_installed
from policyopt.policies.fused import altered
from policyopt.policies.language import Language
from policyopt.worlds.gymnasium import EnvironmentWorld
from policyopt.worlds.tokens import TokenWorld

ENGINES = ("auto", "native", "transformers", "vllm", "plain")


class SlowerEngineWarning(UserWarning):
    """A run works, but not with the fastest engine."""


def engine_for(policy: Any, world: Any, name: str = "auto", options: VllmOptions | Decoding | None = None) -> Any:
    """The engine of a name; "auto" takes the fastest that equals `plain` here, and warns if it is not the native
    one. options: of vLLM or the native engine. EngineError: an unknown name, or an engine that is missing or can not
    serve these."""
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
    if name == "vllm":
        return _vllm(policy, world, options if isinstance(options, VllmOptions) else None)
    obstacle = native_obstacle(policy, world) or _altered(policy)
    if obstacle is None:
        return NativeEngine(options if isinstance(options, Decoding) else None)
    if name == "native":
        raise EngineError(f"the native engine can not generate here: {obstacle}; use engine=transformers")
    warnings.warn(f"generating with transformers, which is slower: {obstacle}", SlowerEngineWarning, stacklevel=2)
    return TransformersEngine()


def _altered(policy: Language) -> str | None:
    for name, module in policy.causal.named_modules():
        if (".layers." in name or name.endswith("norm")) and altered(module):
            return f"it reads weights, and {name} has hooks or a forward of its own"
    return None


def _vllm(policy: Any, world: Any, options: VllmOptions | None) -> VllmEngine:
    obstacle = vllm_obstacle(policy, world)
    if obstacle is not None:
        raise EngineError(f"vLLM can not generate here: {obstacle}; use engine=native, transformers or plain")
    check_installed()
    return VllmEngine(options)
