"""TD3: the three changes against overestimation, each by numbers, and what it reduces to without them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from policyopt.methods import load
from policyopt.options import override
from policyopt.types import Finish
from policyopt.update.following import Average
from references_values import Bowl, Pointed, iterated, places, transitions
from support import close

pytestmark = pytest.mark.usefixtures("float64")


def models(heads: int = 2) -> dict[str, Any]:
    return {"policy": Pointed(1), "critic": Bowl(3, squashed=False, heads=heads)}


def made(**changes: Any) -> Any:
    return override(load("td3"), {"objective.critic.loss.gamma": 0.9, **changes})


STEP = {"critic": 0.2, "policy": 0.5}


def test_trap_55_the_policy_moves_at_every_second_update() -> None:
    batch, first = transitions(), Pointed(1).mean
    after = {n: iterated(made(), models(), batch, n, STEP).models for n in (1, 2, 3, 4)}
    close(after[1]["policy"].mean, first)
    close(after[3]["policy"].mean, after[2]["policy"].mean)
    assert float((after[2]["policy"].mean - first).detach().abs().max()) > 1e-3
    assert float((after[4]["policy"].mean - after[2]["policy"].mean).detach().abs().max()) > 1e-3
    assert float((after[3]["critic"].w - after[2]["critic"].w).detach().abs().max()) > 1e-3


def test_trap_55_targets_move_with_the_policy() -> None:
    """After 4 updates: 0.995^2 first + 0.005 (0.995 (after 2) + (after 4)); nothing at odd updates."""
    batch = transitions()
    after = {n: iterated(made(), models(), batch, n, STEP).models for n in (1, 2, 3, 4)}
    for target, model, name in (("target", "critic", "w"), ("target_policy", "policy", "mean")):
        first = dict(models()[model].named_parameters())[name]
        two, four = (getattr(after[n][model], name) for n in (2, 4))
        close(getattr(after[1][target], name), first)
        close(getattr(after[4][target], name), 0.995**2 * first + 0.005 * (0.995 * two + four))
        close(getattr(after[3][target], name), getattr(after[2][target], name))


def test_the_policy_follows_the_first_head_alone() -> None:
    """dL/dmean = -dQ_1/da da/dmean, mean over trained steps: by hand from the critic's numbers."""
    batch, before = transitions(), models()
    made_one = replace(made(), update=replace(made().update, every={}))
    run = iterated(made_one, before, batch, 1, {"critic": 0.0, "policy": 1.0})
    start, critic = models()["policy"].mean.detach(), models()["critic"]
    expected = torch.zeros_like(start)
    for _, _, s, _, _ in places(batch):
        y = start[s].tanh()
        slope = critic.w[0, s] - 2 * critic.k[0, s] * y
        expected[s] += (slope * (1 - y**2)).detach() / int(batch.trained.sum())
    close(run.models["policy"].mean - start, expected)


def test_without_its_changes_it_is_ddpg() -> None:
    """One head, no smoothing, no delay: y = r + gamma Q'(s', mu'(s')), policy and targets at every update."""
    batch = transitions()
    plain = made(**{"objective.critic.loss.bootstrap.noise": 0.0})
    hooks = (Average("target", "critic", decay=0.9), Average("target_policy", "policy", decay=0.9))
    plain = replace(plain, update=replace(plain.update, every={}, after_step=hooks))
    run = iterated(plain, models(heads=1), batch, 1, {"critic": 1.0, "policy": 1.0})
    begun: Any = models(heads=1)
    critic, policy = begun["critic"], begun["policy"]
    own = batch.trained
    with torch.no_grad():
        following = critic.q(batch, policy.at(batch, following=True).mode(), following=True)[0]
        over = torch.zeros_like(own)
        for b, t, _, _, ended in places(batch):
            over[b, t] = ended
        target = batch.step["reward"] + 0.9 * torch.where(over, 0.0, following)
    error = (0.5 * (critic.q(batch)[0] - target) ** 2)[own].mean()
    slopes = torch.autograd.grad(error, list(critic.parameters()))
    for (name, parameter), slope in zip(critic.named_parameters(), slopes, strict=True):
        close(getattr(run.models["critic"], name), parameter - slope, what=name)
    close(run.models["target"].w, 0.9 * critic.w + 0.1 * run.models["critic"].w)


def test_two_heads_target_less_than_one() -> None:
    """The least of two is below each: the critic's mean target falls."""
    batch = transitions()
    low = iterated(made(), models(), batch, 1, STEP)
    both = models()
    both["critic"].c.data[1] += 50.0  # the second head is never the least
    del low

    def target(these: dict[str, nn.Module]) -> float:
        run_models = iterated(made(), these, batch, 1, {"critic": 1e-9, "policy": 0.0}).models
        seen: Any = run_models["target"]
        mode: Any = run_models["target_policy"].at(batch, following=True).mode()
        return float(seen.q(batch, mode, following=True).amin(0)[batch.trained].mean().detach())

    assert target(models()) < target(both)


def test_trap_51_a_limit_is_no_end() -> None:
    batch = transitions()
    stopped = batch.with_rows({"finish": torch.full_like(batch.row["finish"], int(Finish.STOPPED))})
    cut = batch.with_rows({"finish": torch.full_like(batch.row["finish"], int(Finish.TRUNCATED))})
    going = batch.with_rows({"finish": torch.full_like(batch.row["finish"], int(Finish.RUNNING))})
    found = [iterated(made(), models(), rows, 1, STEP).models["critic"].w for rows in (stopped, cut, going)]
    close(found[1], found[2])
    assert float((found[0] - found[1]).detach().abs().max()) > 1e-3


def test_published_settings() -> None:
    td3 = load("td3")
    bootstrap = td3.objective[0].loss.bootstrap
    assert (bootstrap.noise, bootstrap.clip) == (0.2, 0.5)
    assert td3.update.every == {"policy": 2}
    assert (td3.sampling.exploration.last, td3.update.size) == (0.1, 256)
