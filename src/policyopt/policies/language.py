"""A language policy: a causal language model of the Hugging Face kind that scores tokens and proposes the next one."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from policyopt.ops.kept import kept_of, within
from policyopt.policies.classifiers import (
    LOW_PRECISION,
    AlwaysEval,
    LanguagePreference,
    LanguageReward,
    UnsupportedModelError,
    classifier_of,
)
from policyopt.policies.kept_scores import score_kept
from policyopt.policies.packing import Packed, by_rows, pack
from policyopt.policies.token_scores import LOGITS, Projection, capped, scorer
from policyopt.policies.trunk import PLAIN, Reading, read, suited
from policyopt.types import Batch, Categorical, Scores


class Language(AlwaysEval):
    """Wraps `AutoModelForCausalLM` (or a PEFT model of one) as a `compose.Policy` on `_prompt` and `_token` columns.

    score_rows: rows scored at a time when no gradient is asked for. head_tokens: tokens whose logits exist at a
    time, fewer where the vocabulary is large. reading: how the decoder reads rows. All change values by rounding only.
    """

    kind = "language"
    truncates = True  # scores steps within what truncated sampling kept

    def __init__(
        self, model: nn.Module, score_rows: int = 256, head_tokens: int = 16384, reading: Reading | None = None
    ):
        super().__init__()
        self.model: Any = model
        self.score_rows, self.head_tokens = score_rows, head_tokens
        self.eval()
        # Padding is never embedded where it counts, so the padding token (often EOS) may learn like any other.
        self.causal.get_input_embeddings().padding_idx = None
        _check_head(self)
        self.reading = suited(self.backbone, reading or Reading())

    @property
    def causal(self) -> Any:
        """The causal model itself, adapters within its layers but not around it."""
        return self.model.get_base_model() if self.adapted else self.model

    @property
    def adapted(self) -> bool:
        """Whether low-rank adapters are attached."""
        return hasattr(self.model, "peft_config")

    @property
    def backbone(self) -> Any:
        """The decoder without its head."""
        return self.causal.base_model

    @property
    def vocabulary(self) -> int:
        return self.causal.get_output_embeddings().weight.shape[0]

    @property
    def positions(self) -> int | None:
        """The longest prompt and answer together that the model was made for; None if its config does not say."""
        return self.causal.config.get_text_config().to_dict().get("max_position_embeddings")

    def head(self, states: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead V"]:
        """Logits in at least float32: the product too, because bfloat16 logits lose ratios between policies."""
        projection = self.projection
        if projection is not None:
            return projection(states)
        logits = self.causal.get_output_embeddings()(states)
        return capped(logits.float() if logits.dtype in LOW_PRECISION else logits, self._cap)

    @property
    def projection(self) -> Projection | None:
        """The head, if it is a plain linear layer (no adapter, no shard)."""
        head = self.causal.get_output_embeddings()
        return Projection(head.weight, head.bias, self._cap) if type(head) is nn.Linear else None

    @property
    def _cap(self) -> float | None:
        return getattr(self.causal.config.get_text_config(), "final_logit_softcapping", None)

    # -- compose.Policy ------------------------------------------------------------------------------------
    def next(self, batch: Batch) -> Categorical:
        """The distribution (B, V) of the token after every row's last one, untempered, by a whole forward."""
        packed = pack(batch)
        states, index = read(self.backbone, packed, self.reading, tail=True)
        row = torch.arange(len(batch), device=batch.device)
        return Categorical.of(self.head(states[index[row, packed.last]]))

    def score(self, batch: Batch, context: str | None = None, *, full: bool = False) -> Scores:
        """Log-probabilities and entropies (B, T) of softmax(logits / row temperature) at the steps taken.

        Both carry gradients. A temperature of 0 (greedy) scores as 1. Padding holds 0. Steps of truncated sampling are
        scored within what it kept. `full` adds the distribution (B, T, V), uniform at padding.
        """
        return joined(by_rows(batch, self.score_rows, lambda rows: self._score(rows, context, full=full)))

    def _score(self, batch: Batch, context: str | None, *, full: bool) -> Scores:
        packed, token, temperature = pack(batch, context), batch.step["_token"], batch.row["temperature"]
        temperature = torch.where(temperature == 0, torch.ones_like(temperature), temperature)
        valid = packed.valid
        row, step = valid.nonzero(as_tuple=True)
        states, index = read(self.backbone, packed, self.reading, tail=False)
        chosen = states.index_select(0, index[row, packed.first[row] + step])
        if full:
            return self._distributions(chosen, batch, temperature[row])
        chunk = max(1, min(self.head_tokens, LOGITS // self.vocabulary))
        head, heat = self.projection or self.head, temperature[row]
        way = scorer(self.reading.scoring, chosen.device)
        logp, entropy = score_kept(chosen, head, token[valid], heat, chunk, kept_of(batch, valid), way)
        blank = logp.new_zeros(valid.shape)
        return Scores(blank.masked_scatter(valid, logp), blank.masked_scatter(valid, entropy))

    def _distributions(self, states: Tensor, batch: Batch, temperature: Tensor) -> Scores:
        flat, valid = (self.head(states) / temperature[:, None]).log_softmax(-1), batch.valid
        vocabulary = flat.shape[-1]
        uniform = flat.new_full((*valid.shape, vocabulary), -math.log(vocabulary))
        logp = uniform.masked_scatter(valid[..., None], flat)
        dist = within(Categorical(logp), batch)
        taken = dist.log_prob(self.taken(batch).masked_fill(~valid, 0))
        zero = torch.zeros((), dtype=logp.dtype, device=logp.device)
        return Scores(torch.where(valid, taken, zero), torch.where(valid, dist.entropy(), zero), dist)

    def taken(self, batch: Batch) -> Tensor:
        """(B, T) the tokens that were written."""
        return batch.step["_token"]

    @property
    def hidden_size(self) -> int:
        return self.backbone.config.get_text_config().hidden_size

    def hidden(self, batch: Batch) -> Float[Tensor, "B T D"]:
        """The decoder's last states once each token is read; padding repeats the last one."""
        packed = pack(batch)
        states, index = read(self.backbone, packed, self.reading, tail=True)
        at = packed.first[:, None] + 1 + torch.arange(packed.valid.shape[1], device=packed.first.device)
        return states[index.gather(1, torch.minimum(at, packed.last[:, None]))]

    def make_critic(self, rng: torch.Generator) -> LanguageCritic:
        """A value model that starts as a copy of this policy's decoder and shares no parameter with it."""
        return LanguageCritic(self.backbone, self.score_rows, adapted=self.adapted, reading=self.reading)

    def make_reward(self, rng: torch.Generator) -> LanguageReward:
        """A reward model of rows that starts as a copy of this policy's decoder, adapters merged into it, with a head
        of small random weights."""
        return LanguageReward(classifier_of(self.merged, rng, 1), self.score_rows, self.reading)

    def make_preference(self, rng: torch.Generator, dimension: int) -> LanguagePreference:
        """The same with a head of representations by which rows are compared."""
        return LanguagePreference(classifier_of(self.merged, rng, dimension), self.score_rows, self.reading)

    @property
    def merged(self) -> Any:
        """The causal model, or a copy of it with its adapters merged into it."""
        return copy.deepcopy(self.model).merge_and_unload() if self.adapted else self.causal


class LanguageCritic(AlwaysEval):
    """Values from a copy of a decoder and a scalar head that starts at zero (so every first value is 0).

    With adapters, the copy's adapters and the head are trained; without, everything is.
    """

    def __init__(self, backbone: Any, score_rows: int = 256, *, adapted: bool = False, reading: Reading = PLAIN):
        super().__init__()
        self.backbone: Any = copy.deepcopy(backbone)
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(not adapted or "lora_" in name)
        weight = next(iter(backbone.parameters()))
        self.score_rows, self.reading = score_rows, reading
        # In float32 at least, as the policy's logits are.
        dtype = torch.float32 if weight.dtype in LOW_PRECISION else weight.dtype
        self.head = nn.Linear(backbone.config.get_text_config().hidden_size, 1, device=weight.device, dtype=dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.eval()

    def value(self, batch: Batch) -> Float[Tensor, "B T+1"]:
        """The value before each step, and after the last one; never scaled by a temperature. Padding repeats the
        last value."""
        return torch.cat(by_rows(batch, self.score_rows, lambda rows: self._value(pack(rows))))

    def _value(self, packed: Packed) -> Tensor:
        states, index = read(self.backbone, packed, self.reading, tail=True)
        at = packed.first[:, None] + torch.arange(packed.valid.shape[1] + 1, device=packed.first.device)
        values = self.head(states.to(self.head.weight.dtype))[..., 0]
        return values[index.gather(1, torch.minimum(at, packed.last[:, None]))]


def joined(parts: list[Scores]) -> Scores:
    """Scores of several parts of the rows as one."""
    if len(parts) == 1:
        return parts[0]
    dists = [part.dist for part in parts if isinstance(part.dist, Categorical)]
    return Scores(
        torch.cat([part.logp for part in parts]),
        torch.cat([part.entropy for part in parts if part.entropy is not None]),
        Categorical(torch.cat([dist.logp for dist in dists])) if dists else None,
    )


def _check_head(policy: Language) -> None:
    """Some architectures rescale logits after their head. One forward of two tokens shows whether ours does all
    that theirs does."""
    weight = policy.causal.get_input_embeddings().weight
    probe = torch.tensor([[0, weight.shape[0] - 1]], device=weight.device)
    with torch.no_grad():
        theirs = policy.causal(input_ids=probe, use_cache=False).logits
        ours = policy.head(policy.backbone(input_ids=probe, use_cache=False).last_hidden_state)
    tolerance = 0.05 if theirs.dtype in LOW_PRECISION else 1e-4
    if not torch.allclose(ours.to(theirs.dtype), theirs, rtol=tolerance, atol=tolerance * float(theirs.abs().max())):
        raise UnsupportedModelError(
            f"{type(policy.causal).__name__} does more to its logits than a linear head and a softcap, so its "
            "log-probabilities would be wrong here; use an architecture of the Llama, Qwen, Gemma or GPT-NeoX family"
        )
