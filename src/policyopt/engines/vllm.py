"""Generation with vLLM: paged keys and values, continuous batching, its kernels for many architectures."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from policyopt.distributions import widest
from policyopt.engines.native import EngineError, text_obstacle
from policyopt.engines.sampling import demand_finite
from policyopt.engines.vllm_model import Answer, Request, VllmModel, VllmOptions
from policyopt.engines.weights import StaleWeightsError, policy_weights
from policyopt.ops.fingerprint import fingerprint
from policyopt.policies.language import Language
from policyopt.policies.packing import pack
from policyopt.truncation import CUT
from policyopt.types import Batch
from policyopt.worlds.tokens import TokenWorld

_BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}


class MismatchError(StaleWeightsError):
    """The engine's log-probabilities are not the policy's."""


def vllm_obstacle(policy: Any, world: Any) -> str | None:
    """Why vLLM can not generate for this policy and world, or None if it may be able to."""
    obstacle = text_obstacle(policy, world)
    if obstacle is None and policy.causal.dtype not in _BOUNDS:
        return f"it computes in float32, bfloat16 or float16, and the policy is {policy.causal.dtype}"
    return obstacle


class VllmEngine:
    """Draws from the same distribution as `engines.plain.generate`, with random numbers of its own: a row's tokens are
    a function of its key. Before every call the copy of the weights is brought up to date and compared, tensor by
    tensor; after it the policy scores some rows again (`mismatch`: nats, in the mean). There is no truncated sampling:
    vLLM does not say which tokens it kept."""

    def __init__(self, options: VllmOptions | None = None, start: Callable[..., VllmModel] = VllmModel):
        self.options, self._start = options or VllmOptions(), start
        self.mismatch: float | None = None
        self.syncs = 0  # that brought new weights
        self._model: VllmModel | None = None
        self._made: dict[str, Any] = {}
        self._of_policy = 0

    def __call__(
        self,
        policy: Any,
        world: Any,
        batch: Batch,
        keys: Tensor,
        temperature: float,
        version: int,
        steps: int | None = None,
    ) -> Batch:
        obstacle = vllm_obstacle(policy, world)
        if obstacle is not None:
            raise EngineError(f"vLLM can not generate here: {obstacle}; use engine=native, transformers or plain")
        if CUT in batch.row:
            raise EngineError(
                "sampling.top_k, top_p and min_p need a record of which tokens were kept, and vLLM returns none: the "
                "trainer could not renormalise over them; use engine=native, transformers or plain, or leave them out"
            )
        rows = (~batch.done).nonzero()[:, 0]
        if len(rows) == 0:
            return batch
        model = self._served(policy)
        self.syncs += model.sync(policy_weights(policy), version)
        self._of_policy = fingerprint(policy)
        answers = model.generate(_requests(batch[rows], world, keys[rows], temperature, steps), world.eos)
        done = world.extend(batch, *_columns(answers, rows, batch), version)
        self._check(policy, done, rows, before=batch.lengths)
        return done

    def fingerprint(self) -> int:
        """The policy's at the last sync, unless the copy has changed since. (Of a policy with adapters the copy holds
        the sums, so its own fingerprint would be another number.)"""
        return self._of_policy + (0 if self._model is None else self._model.drift())

    def _served(self, policy: Language) -> VllmModel:
        config = copy.deepcopy(policy.causal.config)
        config.architectures = [type(policy.causal).__name__]
        made = {"config": config.to_dict(), "dtype": policy.causal.dtype}
        if self._model is None:
            self._model, self._made = self._start(config, policy.causal.dtype, self.options), made
        if made != self._made:
            raise EngineError(
                "one vLLM engine serves models of one architecture and precision, and another one was asked to "
                "generate; use engine=native for runs with several"
            )
        return self._model

    def _check(self, policy: Language, done: Batch, rows: Tensor, before: Tensor) -> None:
        """Score some of the new tokens as the trainer does. MismatchError: they differ by more than rounding."""
        some = rows[: self.options.checked]
        if len(some) == 0:
            return
        part = done[some]
        with torch.no_grad():
            difference = (policy.score(part).logp - part.step["behaviour"]).abs()
        new = part.own & (part.own.cumsum(1) > before[some, None])
        self.mismatch = float(difference[new].mean())
        bound = _BOUNDS[policy.causal.dtype] if self.options.mismatch is None else self.options.mismatch
        if not self.mismatch <= bound:
            raise MismatchError(
                f"vLLM's log-probabilities differ from the policy's by {self.mismatch:.3g} nats in the mean of "
                f"{int(new.sum())} tokens, more than {bound:g}: its weights are the policy's, so it computes something "
                "else with them. Use engine=native; or raise policy.vllm.mismatch and weigh rows with "
                "truncated_importance"
            )


def _requests(batch: Batch, world: TokenWorld, keys: Tensor, temperature: float, steps: int | None) -> list[Request]:
    packed = pack(batch)
    prompts = [row[: last + 1] for row, last in zip(packed.tokens.tolist(), packed.last.tolist(), strict=True)]
    left = (world.limit - batch.lengths).clamp(min=1, max=steps).tolist()
    heat = batch.row["temperature"].tolist() if temperature else [0.0] * len(batch)
    return [Request(*one) for one in zip(prompts, keys.tolist(), left, heat, strict=True)]


def _columns(answers: list[Answer], rows: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """token, logp and live, (B, n), of `rows` of the batch. NotFiniteError: a log-probability is no number."""
    width = max(len(answer.tokens) for answer in answers)
    token = torch.zeros(len(batch), width, dtype=torch.int64)
    logp = torch.zeros(len(batch), width, dtype=widest(batch.device))
    live = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, answer in zip(rows.tolist(), answers, strict=True):
        count = len(answer.tokens)
        token[row, :count], live[row, :count] = torch.tensor(answer.tokens), True
        logp[row, :count] = torch.tensor(answer.logp, dtype=logp.dtype)
    demand_finite(logp)
    return token.to(batch.device), logp.to(batch.device), live.to(batch.device)
