"""Language models with a head of their own in place of the vocabulary's: reward models and preference models of rows.

Both wrap `AutoModelForSequenceClassification`; its outputs at the last token of prompt and answer are what it says of
the row. All of it is trained. Saved and opened by `policies.reward_checkpoint`.
"""

from __future__ import annotations

import copy
import math
from abc import ABC
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from policyopt.compose import CompositionError
from policyopt.ops.comparisons import skew
from policyopt.policies.packing import Packed, by_rows, pack
from policyopt.policies.trunk import Reading, read, suited
from policyopt.types import PROMPT, Batch

LOW_PRECISION = (torch.float16, torch.bfloat16)


class UnsupportedModelError(ValueError):
    """A model whose outputs this library would misread."""


class AlwaysEval(nn.Module):
    """A module that ignores `train()`.

    Dropout is off during training too. A ratio of two log-probabilities compares two *policies*; with dropout each
    would be of another random sub-network, so the first step's ratio would not be 1 and every KL would be positive
    at no distance. Nothing else in a decoder depends on the mode.
    """

    def train(self, mode: bool = True) -> Any:  # noqa: FBT001, FBT002 - the signature is torch's
        return super().train(False)


class Classifier(AlwaysEval, ABC):
    """context: what rows are read under, if not their prompt."""

    def __init__(self, classifier: Any, score_rows: int = 256, reading: Reading | None = None):
        super().__init__()
        self.model, self.score_rows = classifier, score_rows
        self.context: str | None = None
        self.labels = int(getattr(classifier.config, "num_labels", 0))
        if not hasattr(classifier, "score"):
            raise UnsupportedModelError(f"{type(classifier).__name__} has no linear head `score`")
        self.model.get_input_embeddings().padding_idx = None
        self.eval()
        self.reading = suited(classifier.base_model, reading or Reading())

    @property
    def vocabulary(self) -> int:
        return self.model.get_input_embeddings().weight.shape[0]

    def outputs(self, batch: Batch, context: str | None = None) -> Float[Tensor, "B labels"]:
        """At least in float32; never scaled by a temperature. context: None stands for the model's own."""
        name = self.context if context is None else context
        if name is not None and f"{PROMPT}:{name}" not in batch.row:
            raise CompositionError(
                f"this model reads rows under the context {name!r}, which these rows do not have; in a recipe, give "
                "tasks.reference_answer to every stage that asks it"
            )
        return torch.cat(by_rows(batch, self.score_rows, lambda rows: self._outputs(pack(rows, name))))

    def _outputs(self, packed: Packed) -> Tensor:
        states, index = read(self.model.base_model, packed, self.reading, tail=True)
        found = self.model.score(states[index.gather(1, packed.last[:, None])[:, 0]])
        return found.float() if found.dtype in LOW_PRECISION else found


class LanguageReward(Classifier):
    """One label: what the row is worth."""

    def __init__(self, classifier: Any, score_rows: int = 256, reading: Reading | None = None):
        super().__init__(classifier, score_rows, reading)
        if self.labels != 1:
            raise UnsupportedModelError(f"a reward model has one label; this classifier has {self.labels}")

    def worth(self, batch: Batch, context: str | None = None) -> Float[Tensor, " B"]:
        """What every row is worth under one of its contexts."""
        return self.outputs(batch, context)[:, 0]


class LanguagePreference(Classifier):
    """An even number of labels: the row's representation. The log-odds that one row is preferred to another are a
    skew-symmetric form of both (`ops.comparisons.skew`), so P(a > b) + P(b > a) = 1 for whatever weights, and cycles
    are possible (general preference model, arXiv 2410.02197; its unit length and gates by prompt are left out)."""

    def __init__(self, classifier: Any, score_rows: int = 256, reading: Reading | None = None):
        super().__init__(classifier, score_rows, reading)
        if self.labels < 2 or self.labels % 2:
            raise UnsupportedModelError(
                f"a preference model has an even number of labels; this classifier has {self.labels}"
            )

    def compare(self, batch: Batch, first: Tensor, second: Tensor) -> Float[Tensor, " n"]:
        """The log-odds that rows `first` (n,) are preferred to rows `second` (n,); every row is read once."""
        rows, place = torch.cat([first, second]).unique(return_inverse=True)
        said = self.outputs(batch[rows])
        return skew(said[place[: len(first)]], said[place[len(first) :]])


def classifier_of(causal: Any, rng: torch.Generator, labels: int) -> Any:
    """`AutoModelForSequenceClassification` on a copy of a causal model's decoder; the head's weights are normal with
    standard deviation 1 / sqrt(width + 1) (Stiennon et al. 2020)."""
    # Imported here because it takes seconds and few runs need it.
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(causal.config)
    config.num_labels = labels
    with torch.random.fork_rng(devices=[]):
        made = AutoModelForSequenceClassification.from_config(config, dtype=causal.dtype)
    made.base_model.load_state_dict(causal.base_model.state_dict())
    weight = made.score.weight
    drawn = torch.randn(weight.shape, generator=rng, dtype=torch.float64) / math.sqrt(weight.shape[1] + 1)
    with torch.no_grad():
        weight.copy_(drawn)
    return made.to(causal.device)
