"""Weights in 16 bit are trained by way of float32 copies, which are part of the optimiser's state."""

import copy

import pytest
import torch
from torch import nn

from policyopt.compose import CompositionError, Term
from policyopt.objective.surrogates import PolicyGradient
from policyopt.runtime import checkpoint
from policyopt.update.averaging import TokenMean
from policyopt.update.following import Average
from policyopt.update.gradient import GradientSteps
from policyopt.update.masters import MASTER, Masters, Summed
from policyopt.update.optimizers import SGD, AdamW, RMSprop
from support import Grid, context, method, per_row, ragged

RATE = 1e-6


def weights(dtype=torch.bfloat16):
    """Two tensors of about the size of a transformer's weights, and one that is in float32 whatever the others are."""
    rng = torch.Generator().manual_seed(3)
    made = [(torch.randn(size, generator=rng) * 0.02).bfloat16().to(dtype) for size in ((30, 8), (8,))]
    return [nn.Parameter(x) for x in (*made, torch.randn(5, generator=rng))]


def slopes(step):
    """Other gradients at every step, exact in both precisions, of one sign on average."""
    rng = torch.Generator().manual_seed(100 + step)
    return [(0.5 + torch.randn(size, generator=rng)).bfloat16() for size in ((30, 8), (8,), (5,))]


def train(parameters, optimizer, steps):
    for step in steps:
        for parameter, slope in zip(parameters, slopes(step), strict=True):
            parameter.grad = slope.to(parameter.dtype)
        optimizer.step()


@pytest.mark.parametrize("spec", [AdamW(RATE, weight_decay=0.1), SGD(RATE, momentum=0.9), RMSprop(RATE)])
def test_weights_move_as_in_float32_and_are_rounded_only_to_be_read(spec) -> None:
    """By steps of 1e-6, far below the last bit of a weight of 0.02 in bfloat16."""
    low, wide = weights(), weights(torch.float32)
    first = [p.detach().clone() for p in low]
    optimizers = spec.make(low), spec.make(wide)
    for parameters, optimizer in zip((low, wide), optimizers, strict=True):
        train(parameters, optimizer, range(200))
    moved = optimizers[0].state_dict()["state"]
    for place in (0, 1):
        assert torch.equal(moved[place][MASTER], wide[place].detach())
        assert torch.equal(low[place].detach(), wide[place].detach().bfloat16())
        assert low[place].dtype == torch.bfloat16
        assert not torch.equal(low[place], first[place])
        assert moved[place][MASTER].dtype == torch.float32
    assert torch.equal(low[2], wide[2])
    assert MASTER not in moved.get(2, {})


def test_a_learning_rate_that_a_schedule_sets_is_used() -> None:
    for rate, still in ((0.0, True), (1e-2, False)):
        low = weights()
        optimizer, first = SGD(1e-2).make(low), low[0].detach().clone()
        optimizer.param_groups[0]["lr"] = rate
        train(low, optimizer, range(3))
        assert torch.equal(low[0], first) == still


def test_weights_in_float32_have_torchs_own_optimiser() -> None:
    assert type(AdamW().make(weights(torch.float32))) is torch.optim.AdamW
    assert type(AdamW().make(weights())) is Masters


def test_trap_02_gradients_of_micro_batches_add_up_in_float32() -> None:
    """1,024 passes of gradient 1: in 16 bit the sum would stand still at 256."""
    given = weights()
    summed = Summed(given)
    for _ in range(1024):
        sum(p.float().sum() for p in given).backward()
        summed.add()
    summed.give()
    assert all(bool((p.grad == 1024).all()) for p in given)
    assert given[0].grad.dtype == torch.bfloat16


def test_trap_02_an_update_in_16_bit_sums_its_micro_batches_exactly() -> None:
    """512 rows of one step and advantage 1, row by row: the mean gradient is 1, by hand."""
    rows = per_row(ragged((1,) * 512, tools=False), [1.0] * 512)
    rows = rows.with_rows({"_row": torch.zeros_like(rows.row["_row"])})
    policy = Grid(logp=torch.full((8, 104), -1.0)).to(torch.bfloat16)
    update = GradientSteps({"policy": SGD(1.0)}, micro_rows=1, clip_norm=None)
    update(context(method(Term("a", PolicyGradient(), TokenMean()), update=update), {"policy": policy}), rows)
    assert float(policy.logp[0, 0].detach()) == pytest.approx(0.0, abs=2**-7)


def test_trap_48_copies_are_saved_and_loaded(tmp_path) -> None:
    """Ten steps straight, or four, a checkpoint on disk and six; without the copies it is an error."""
    straight = weights()
    optimizer = AdamW(RATE).make(straight)
    train(straight, optimizer, range(10))
    before = weights()
    first = AdamW(RATE).make(before)
    train(before, first, range(4))
    checkpoint.save({"weights": [p.detach() for p in before], "optimizer": first.state_dict()}, tmp_path / "a.ckpt")
    state = checkpoint.load(tmp_path / "a.ckpt")
    after = [nn.Parameter(x) for x in state["weights"]]
    second = AdamW(RATE).make(after)
    second.load_state_dict(state["optimizer"])
    train(after, second, range(4, 10))
    for one, other in zip(after, straight, strict=True):
        assert torch.equal(one, other)
    for place, held in optimizer.state_dict()["state"].items():
        for name, value in held.items():
            found = second.state_dict()["state"][place][name]
            assert found.dtype == value.dtype
            assert torch.equal(found, value), name
    forgotten = copy.deepcopy(state["optimizer"])
    del forgotten["state"][0][MASTER]
    with pytest.raises(ValueError, match="no float32 copies of 1 of its 16-bit parameters"):
        AdamW(RATE).make(weights()).load_state_dict(forgotten)


def test_a_weight_that_something_else_writes_is_taken_over() -> None:
    low = weights()
    optimizer = SGD(0.0).make(low)
    train(low, optimizer, range(1))
    with torch.no_grad():
        low[0][3] = 7.0
    train(low, optimizer, range(1))
    assert bool((low[0][3] == 7.0).all())
    assert bool((optimizer.state_dict()["state"][0][MASTER][3] == 7.0).all())


class Pair(nn.Module):
    def __init__(self, value, dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.full((4,), value, dtype=dtype))


def test_moving_averages_of_weights_in_16_bit_are_refused() -> None:
    """One part in a hundred of a difference in the last bits is rounded away: the average would stand still."""
    for dtype, near in ((torch.float32, 1.0 + 0.01 / 128), (torch.bfloat16, None)):
        models = {"policy": Pair(1 + 1 / 128, dtype), "average": Pair(1.0, dtype)}
        ctx = context(method(), models)
        if near is None:
            with pytest.raises(CompositionError, match=r"moving average of .*bfloat16.*policy.dtype=float32"):
                Average("average", decay=0.99)(ctx)
            Average("average", decay=0.0)(ctx)  # a copy
            assert torch.equal(models["average"].weight, models["policy"].weight)
        else:
            Average("average", decay=0.99)(ctx)
            torch.testing.assert_close(models["average"].weight, torch.full((4,), near), rtol=0, atol=1e-7)
