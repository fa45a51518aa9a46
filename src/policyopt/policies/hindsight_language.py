"""Language policies that are told a code beside their prompt: of the answer itself while they learn to repeat it, of a
place among such codes while they act (OPPO, arXiv 2305.16217)."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from policyopt.policies.classifiers import AlwaysEval, Classifier, LanguagePreference, LanguageReward, classifier_of
from policyopt.policies.hindsight import HINDSIGHT, LandmarkModel
from policyopt.policies.language import Language, LanguageCritic, joined
from policyopt.policies.packing import by_rows
from policyopt.types import Batch, Categorical, Scores


class AnswerCode(Classifier):
    """The labels are a row's code."""


class HindsightLanguage(AlwaysEval):
    """A `compose.Policy` around a language policy. A linear map of the code is added to the embedding of every token:
    of a row's own code under the context `HINDSIGHT`, of `place` everywhere else. The place is 0 (and adds nothing)
    until a landmark moves it; it belongs to the policy's state and is none of its parameters.

    encoder: a decoder that reads prompt and answer, and a head of `size` numbers; it begins as a copy of the policy's
    when a landmark is made. seed: of that head and of the map, which begins as small as the embeddings.
    """

    kind = "language"

    def __init__(self, language: Language, size: int, seed: int = 0):
        super().__init__()
        rng, self.size, self.language = torch.Generator().manual_seed(seed), size, language
        self.encoder = AnswerCode(classifier_of(language.merged, rng, size), language.score_rows, language.reading)
        # Rows of one prompt have codes of their own, so that they can not share what is read of it.
        language.reading = replace(language.reading, packed=False, share=False)
        weight = self._embeddings.weight
        self.told = nn.Linear(size, weight.shape[1], bias=False, device=weight.device)
        with torch.no_grad():
            drawn = torch.randn(self.told.weight.shape, generator=rng) * float(weight.detach().float().std())
            self.told.weight.copy_(drawn)
        self.register_buffer("place", torch.zeros(size, device=weight.device))
        self.place: Tensor

    @property
    def _embeddings(self) -> Any:
        return self.language.causal.get_input_embeddings()

    @property
    def causal(self) -> Any:
        return self.language.causal

    @property
    def vocabulary(self) -> int:
        return self.language.vocabulary

    @property
    def positions(self) -> int | None:
        return self.language.positions

    # -- codes -------------------------------------------------------------------------------------------------
    def embed(self, batch: Batch) -> Float[Tensor, "B size"]:
        """The code of every row."""
        return self.encoder.outputs(batch)

    def make_landmark(self, rng: torch.Generator, *, trained: bool) -> LandmarkModel:
        """The place that new rows are written beside, which starts at 0, where the policy writes as the one inside; or
        the fixed origin."""
        if not trained:
            return LandmarkModel(self, nn.Parameter(torch.zeros_like(self.place), requires_grad=False))
        self.encoder.model.base_model.load_state_dict(self.language.merged.base_model.state_dict())
        self.place.zero_()
        return LandmarkModel(self, nn.Parameter(self.place))  # of the same numbers: where it moves, the policy follows

    @contextlib.contextmanager
    def _telling(self, code: Float[Tensor, "rows size"]) -> Iterator[None]:
        """Within, tokens are embedded beside a code for every row that is read, or one for all."""
        shift = self.told(code)[:, None] * _scale(self._embeddings)
        handle = self._embeddings.register_forward_hook(lambda _, __, found: found + shift.to(found.dtype))
        try:
            yield
        finally:
            handle.remove()

    # -- compose.Policy ----------------------------------------------------------------------------------------
    def next(self, batch: Batch) -> Categorical:
        with self._telling(self.place[None]):
            return self.language.next(batch)

    def score(self, batch: Batch, context: str | None = None, *, full: bool = False) -> Scores:
        """As `Language.score`; under the context `HINDSIGHT`, of every row beside its own code."""
        if context != HINDSIGHT:
            with self._telling(self.place[None]):
                return self.language.score(batch, context, full=full)

        def beside_itself(rows: Batch) -> Scores:
            with self._telling(self.embed(rows)):
                return self.language.score(rows, full=full)

        return joined(by_rows(batch, self.language.score_rows, beside_itself))

    def taken(self, batch: Batch) -> Tensor:
        return self.language.taken(batch)

    def make_critic(self, rng: torch.Generator) -> LanguageCritic:
        """Of the language policy alone, as are the models below: they are told no code."""
        return self.language.make_critic(rng)

    def make_reward(self, rng: torch.Generator) -> LanguageReward:
        return self.language.make_reward(rng)

    def make_preference(self, rng: torch.Generator, dimension: int) -> LanguagePreference:
        return self.language.make_preference(rng, dimension)

    def acting(self) -> Language:
        """An ordinary language policy that writes as this one does: the place is within its embeddings."""
        model = self.language.merged
        config = copy.deepcopy(model.config)
        config.tie_word_embeddings = False  # what is added where tokens are read is not to be added to the head
        with torch.random.fork_rng(devices=[]):
            made: Any = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
        made.load_state_dict(model.state_dict())
        with torch.no_grad():
            weight = made.get_input_embeddings().weight
            weight.add_(self.told(self.place).to(weight))
        made.generation_config = copy.deepcopy(model.generation_config)
        return Language(made.to(model.device), self.language.score_rows, self.language.head_tokens)


def _scale(embeddings: Any) -> float:
    """What some architectures multiply embeddings by within the layer, so that a shift of its weights is too."""
    return float(getattr(embeddings, "embed_scale", 1.0))
