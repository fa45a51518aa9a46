"""SACPO: `reduces_to` of specification 86."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from enumeration import first_step
from policyopt.compose import Method, Program, Stage
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD
from policyopt.worlds.sequences import SequenceWorld
from support import close, grids, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")

REWARD, SAFETY, START = numbers(4, seed=1, scale=0.4), numbers(4, seed=2, scale=0.4), numbers(4, seed=3)
SIDES = torch.tensor(list(itertools.permutations(range(4), 2)))


def world() -> SequenceWorld:
    """Every ordered pair of four answers once."""
    one = torch.zeros(len(SIDES), dtype=torch.int64)
    return SequenceWorld(len(SIDES), 4, 1, lambda s, t: torch.zeros(len(t)), pairs=SIDES[:, :, None], pair_tasks=one)


def exact(method: Method, worth: Tensor, beta: float) -> Method:
    """A stage on exact Bradley-Terry probabilities, by plain descent."""
    chance = torch.sigmoid(worth[SIDES[:, 0]] - worth[SIDES[:, 1]])

    def weight(seen, batch):
        chosen = batch.step["_step"][:, 0]
        number = {tuple(s): n for n, s in enumerate(SIDES.tolist())}
        other = {int(p): int(c) for p, c, r in zip(batch.row["pair"], chosen, batch.row["rank"], strict=True) if r == 1}
        rows = [
            chance[number[int(c), other[int(p)]]] if r == 0 else torch.tensor(0.0)
            for p, c, r in zip(batch.row["pair"], chosen, batch.row["rank"], strict=True)
        ]
        return 2 * torch.stack(rows)

    made = override(method, {"objective.beta": beta, "selection.count": len(SIDES)})
    update = GradientSteps({"policy": SGD(4.0 / beta)}, clip_norm=None, epochs=150)
    return replace(made, objective=(replace(made.objective[0], weight=weight),), update=update, world="world")


def stages(*given: tuple[Tensor, float]) -> Tensor:
    """Probabilities after sacpo's stages with these worths and betas, one round each."""
    run = Run({"policy": Table(START[None])}, world(), None)
    names = ["sacpo:sacpo_reward", "sacpo"]
    program = Program(tuple(Stage(exact(load(name), *one), 1) for name, one in zip(names, given, strict=False)))
    list(rounds(run, program))
    return run.models["policy"].logits.detach().softmax(-1)[0]  # pyright: ignore


def test_two_stages_find_the_tilted_reference_in_either_order() -> None:
    beta, lam = 0.5, 2.0
    best = (START + (REWARD + lam * SAFETY) / beta).softmax(-1)
    close(stages((REWARD, beta), (SAFETY, beta / lam)), best, atol=1e-5)
    close(stages((SAFETY, beta / lam), (REWARD, beta)), best, atol=1e-5)


def test_without_the_second_stage_it_is_dpo() -> None:
    close(
        first_step(load("sacpo:sacpo_reward"), grids(), ragged()).gradient,
        first_step(load("dpo"), grids(), ragged()).gradient,
    )


def test_the_second_stage_is_dpo_with_its_own_beta_and_pairs() -> None:
    made = load("sacpo")
    assert made.world == "safety"
    assert load("sacpo:sacpo_reward").world == "world"
    dpo = override(load("dpo"), {"objective.beta": 0.025})
    close(
        first_step(replace(made, world="world"), grids(), ragged()).gradient,
        first_step(dpo, grids(), ragged()).gradient,
    )


def test_the_reference_of_the_second_stage_is_the_first_ones_result() -> None:
    run = Run({"policy": Table(START[None])}, world(), None)
    first, second = (exact(load(n), REWARD, 0.5) for n in ("sacpo:sacpo_reward", "sacpo"))
    seen = [
        run.models["reference"].logits.detach().clone()
        for _ in rounds(run, Program((Stage(first, 1), Stage(second, 1))))
    ]  # pyright: ignore
    close(seen[0], START[None])
    assert float((seen[1] - START).abs().max()) > 0.01
