"""Knobs of parts that compare rows with each other."""

import dataclasses
from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor

import cases
from asked import asking, kept_rounds, sampled
from contests import Contest
from policyopt.evaluation.experiments.judged import BothOrders
from policyopt.feedback.duels import Duels, RankedPairs
from policyopt.feedback.lists import SoftTournament
from policyopt.objective.games import MirrorPreference, WinRateLogistic
from policyopt.policies.tabular import Table
from policyopt.reward.wins import WinRate
from policyopt.sampling.forms import EquivalentForms
from policyopt.sampling.opponents import EARLIER, GroupAgainst
from policyopt.sampling.resets import ResetGroup
from policyopt.sampling.samplers import Group
from policyopt.worlds.sequences import SequenceWorld
from references_reward_models import Compared
from support import context, full_step, method, numbers, ragged, rewarded, with_row


def loss(part: Any) -> Tensor:
    key = "mirror_preference" if isinstance(part, MirrorPreference) else "win_rate_logistic"
    found, gradient = full_step(dataclasses.replace(cases.CASES[key], loss=part).context(), cases.rich())
    return torch.cat([found[None], gradient.flatten()])


def ranked(part: Any) -> Tensor:
    batch = rewarded(with_row(ragged((2, 2, 2, 2)), group=(1, 1, 1, 1)), [0.9, 0.2, 0.4, 0.75])
    return part(context(method(), {"policy": torch.nn.Identity()}), batch).row["rank"].double()


CHANCE = numbers(5, 5, seed=4).sigmoid()


def contest() -> SequenceWorld:
    """Answers of one symbol out of 5."""
    game = CHANCE.tril(-1) + (1 - CHANCE).tril(-1).T + 0.5 * torch.eye(5)
    return SequenceWorld(6, 5, 1, lambda s, t: s[:, 0].double(), compare=lambda a, b, t: game[a[:, 0], b[:, 0]])


def met(part: Any) -> Tensor:
    """Behaviour and rewards of three rounds, kept rows included."""
    ctx = asking(part, contest(), Table(numbers(6, 5, seed=1)), reward=WinRate(opponents=True))
    rounds = kept_rounds(ctx, 4)
    return torch.cat([torch.cat([b.step["behaviour"].flatten(), b.step["reward"].flatten()]) for b in rounds])


def rated(part: Any) -> Tensor:
    if part.judge is not None:
        return torch.zeros(1)  # asks a model: see test_pairwise_rl
    ctx = asking(Group(4), contest(), Table(numbers(6, 5, seed=1)), reward=part)
    return kept_rounds(ctx, 1)[0].step["reward"].flatten()


def by_model(part: Any) -> Tensor:
    """Ranks and labels; the model named "judge" says the opposite of the world."""
    batch = with_row(ragged((2, 2, 2, 2)), group=(1, 1, 1, 1)).with_rows({"_row": torch.arange(4)})
    chance = CHANCE[:4, :4] - CHANCE[:4, :4].T
    judge = Compared(-chance)
    found = part(
        context(method(), {"policy": torch.nn.Identity(), "judge": judge}, Contest((2 * chance).sigmoid())), batch
    )
    return torch.cat([found.row["rank"].double(), found.row.get("label", torch.zeros(4)).double()])


def formed(part: Any) -> Tensor:
    shown = torch.ones(6, 2, dtype=torch.int64)
    world = BothOrders(6, 3, 2, lambda s, t: (s[:, 0] == t % 2).double(), recordings=shown)
    rows = sampled(asking(part, world, Table(numbers(12, 3, seed=1))))
    return torch.cat([torch.tensor([float(len(rows))]), rows.step["behaviour"].nan_to_num(5.0).flatten()])


KNOBS = (
    Knob(EquivalentForms(size=3), formed, {"size": 2, "temperature": 2.0}),
    Knob(ResetGroup(share=0.5, size=3), formed, {"share": 0.0, "size": 2, "temperature": 2.0}),
    Knob(Duels(drawn=False), by_model, {"judge": "judge"}),
    Knob(SoftTournament(), by_model, {"judge": "judge"}),
    Knob(MirrorPreference(), loss, {"eta": 0.1, "tau": 0.001}),
    Knob(WinRateLogistic(), loss, {"eta": 0.5}),
    Knob(RankedPairs(), ranked, {"gap": 0.8, "most": 2}),
    Knob(WinRate(), rated, {"level": 0.5, "judge": "judge"}),
    Knob(GroupAgainst(size=3, by=EARLIER, kept=2), met, {"size": 2, "opponents": 2, "kept": 7, "temperature": 2.0}),
)
