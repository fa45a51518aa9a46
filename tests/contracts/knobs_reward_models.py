"""Knobs of losses of reward models and of the rewards that they give."""

from __future__ import annotations

from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

from policyopt.feedback.judged import JudgedPairs
from policyopt.objective.reward_models import PairHinge, PairOdds, PairRanking, RowCrossEntropy
from policyopt.reward.reward_models import ModelReward
from policyopt.seen import SeenBatch
from references_reward_models import Compared, said, training
from support import context, grids, ragged


def _ctx() -> Any:
    compared = Compared(torch.arange(16.0, dtype=torch.float64).view(4, 4).sin())
    models = {**grids(), "reward": said(0.7, -0.4, -1.1, 0.3), "preference": compared}
    return context(training(ragged()), models)


def _rows() -> Any:
    return ragged().with_rows({"gap": torch.tensor([0.5, 0.2, 0.0, 0.0]), "label": torch.tensor([1.0, 0.0, 0.25, 1.0])})


def value(part: Any) -> Tensor:
    rows = _rows()
    return part(SeenBatch(_ctx(), rows), rows).detach()


def disagreeing(part: Any) -> Tensor:
    """Two reward models."""
    models = {**grids(), "reward": said(0.7, -0.4, -1.1, 0.3), "other": said(0.1, 0.4, -1.0, -0.7)}
    return part(context(training(ragged()), models), _rows()).step["reward"]


class _Leaning(torch.nn.Module):
    """A judge that leans to the first row, but not by much."""

    def prefers(self, first: Any, second: Any) -> Tensor:
        return torch.full((len(first),), 0.6)


def judged(part: Any) -> Tensor:
    models = {**grids(), "judge": _Leaning()}
    rows = _rows()
    return part(context(training(ragged()), models), rows).row["rank"].double()


KNOBS = (
    Knob(PairRanking(), value, {"margin": "gap", "label_smoothing": 0.1, "centred": 0.5}),
    Knob(PairOdds(), value, {"label_smoothing": 0.1}),
    Knob(PairHinge(), value, {"margin": 2.0}),
    Knob(RowCrossEntropy(), value, {"label": None}),
    Knob(ModelReward(("reward", "other"), combine="lower"), disagreeing, {"weight": 0.5, "pessimism": 2.0}),
    Knob(JudgedPairs(), judged, {"margin": 0.05}),
)
