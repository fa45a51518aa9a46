"""Knobs of parts that denoising methods brought."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from test_dead_knobs import Knob
from torch import Tensor, nn

import cases
from chains import denoiser, drawn, gradient_of, world
from enumeration import Fixed
from policyopt.compose import Stage, Term
from policyopt.credit import denoising, heads, history
from policyopt.credit import flat as credit_flat
from policyopt.credit import shares as credit_shares
from policyopt.credit.groups import GroupStandardised
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.objective import advantages, clamped, clipping, negative_aware
from policyopt.objective import self_play as self_play_losses
from policyopt.run import Run, StageContext
from policyopt.sampling import prior, progress, self_play
from policyopt.selection import extremes, flat, solved, steps
from policyopt.types import Round, Tasks, empty_batch
from policyopt.update import earlier, warming
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import losses
from support import context, full_step, grids, method, per_row, ragged, rewarded

WORTH = [1.0, 0.0, 0.4, 3.0]


def rows() -> Any:
    """Four rows of two groups with rewards and two columns of them."""
    batch = rewarded(ragged(), WORTH)
    return batch.with_steps({"reward:reward": batch.step["reward"]})


def with_history(part: Any) -> Tensor:
    """Advantages of the third round."""
    ctx = context(method(), grids())
    for shift in (0.0, 0.7):
        done = rewarded(ragged(), [x + shift for x in WORTH])
        part.after(ctx, Round(done, done, done, {}))
    return part(ctx, rows()).step["advantage"].flatten()


def credited(part: Any) -> Tensor:
    found = part(context(method(), grids()), rows())
    return torch.cat([found.step[name].flatten() for name in part.writes])


def signed(part: Any) -> Tensor:
    return part(None, ragged()).step["advantage"]


def kept(part: Any) -> Tensor:
    batch = per_row(ragged((2, 3, 2, 3, 2, 3, 2, 3)), [0.9, 0.1, -0.6, 2.0, 0.3, -0.7, 0.2, 0.4])
    return part(context(method(), grids()), batch).row["_row"].double()


def thinned(part: Any) -> Tensor:
    return part(context(method(), grids()), ragged()).trained.double()


def stems(part: Any) -> Tensor:
    world = SimpleNamespace(limit=31)
    found = [part(SimpleNamespace(world=world, stage_step=step)) for step in (0, 30, 99, 150)]
    return torch.tensor(found, dtype=torch.float64)


def chains() -> Any:
    """Rows of chains of three and four denoising steps."""
    batch = ragged((4, 8, 3, 11), tools=False)
    clock = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 1, 2, 3]).expand(4, -1)
    return batch.with_steps({"clock_denoise": clock, "discount": 0.9 ** (3.0 - clock)})


def ranges(part: Any) -> Tensor:
    return part(chains())


def on_two_clocks(part: Any) -> Tensor:
    found = part(context(method(), grids()), chains())
    return torch.cat([found.step[name].flatten() for name in part.writes])


def prepared(part: Any) -> Tensor:
    made = method(Term("a", part, TokenMean()), sampling=Fixed(chains(), ("advantage", "discount")))
    value, gradient = full_step(context(made, grids()), chains())
    return torch.cat([value[None], gradient.flatten()])


def clamped_loss(part: Any) -> Tensor:
    case = replace(cases.CASES["clamped"], loss=part)
    value, gradient = full_step(case.context(), cases.rich())
    return torch.cat([value[None], gradient.flatten()])


def with_prior(part: Any) -> Tensor:
    """Rows of a draw with the part's group size."""
    policy = nn.Module()
    policy.prior = nn.Module()
    policy.prior.mean, policy.prior.std = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))
    ctx = SimpleNamespace(
        models={"policy": policy},
        world=SimpleNamespace(start=empty_batch),
        extend=lambda batch, model, temperature: batch,
    )
    return part(ctx, lambda: Tasks(torch.arange(3)), lambda batch: batch).row["_prior"]


def shares(part: Any) -> Tensor:
    return part(context(method(), grids()), rows()).row["share"]


def unsolved(part: Any) -> Tensor:
    batch = rewarded(ragged((1, 1, 1, 1)), [0.8, 0.3, 0.9, 0.5])
    return part(context(method(), grids()), batch).row["_row"].double()


def retired(part: Any) -> Tensor:
    ctx = context(method(), grids())
    done = rewarded(ragged((1, 1, 1, 1)), [0.93, 0.3, 0.97, 0.5])
    part.after(ctx, Round(done, done, done, {}))
    return torch.tensor(ctx[solved.RETIRED], dtype=torch.float64)


def followed(part: Any) -> Tensor:
    ctx = context(method(), grids())
    ctx.run.step = 300
    part(ctx)
    return ctx.models["old"].logp.detach().clone()


def on_forward_process(part: Any) -> Tensor:
    """Value and gradient of a loss on finished samples."""
    policy = denoiser()
    others = {name: denoiser(seed=seed) for seed, name in enumerate(("lagged", "reference"), 5)}
    made = load("edit_r1_diffusion_nft")
    made = replace(made, objective=(replace(made.objective[0], loss=part),))
    ctx = StageContext(Run({"policy": policy, **others}, None, None), Stage(made, 1))
    batch = drawn(policy).with_rows({"share": torch.linspace(0, 1, 6)})
    value = sum(losses(ctx, batch, ctx.stage.terms), torch.zeros(()))
    return torch.cat([value.detach()[None], gradient_of(value, policy)])


def on_pairs(part: Any) -> Tensor:
    """Value and gradient of a loss on pairs of finished samples."""
    policy = denoiser()
    made = load("seppo")
    made = replace(made, objective=(replace(made.objective[0], loss=part),))
    ctx = StageContext(Run({"policy": policy, "reference": denoiser(seed=5)}, None, None), Stage(made, 1))
    index = torch.arange(6)
    batch = drawn(policy).with_rows({"pair": index % 3, "rank": index // 3})
    value = sum(losses(ctx, batch, ctx.stage.terms), torch.zeros(()))
    return torch.cat([value.detach()[None], gradient_of(value, policy)])


def against(part: Any) -> Tensor:
    policy = denoiser()
    place = world(policy, samples=torch.zeros(4, 3))
    ctx = StageContext(Run({"policy": policy, "reference": policy}, place, generate), Stage(load("seppo"), 1))
    return part(ctx, lambda: place.tasks(torch.arange(4)), lambda batch: batch).row["_latent"]


def kept_selves(part: Any) -> Tensor:
    ctx = context(method(), {**grids(), "reference": grids()["policy"]})
    for step in range(7):
        ctx.run.step = step
        part(ctx)
    return torch.tensor([float(len(ctx[earlier.EARLIER]))])


def flattened(part: Any) -> Tensor:
    batch = per_row(rewarded(ragged((1, 1, 1, 1)), [0.5, 0.3, 0.5, 0.4]), [1.0, 2.0, 3.0, 4.0])
    return part(None, batch).step["advantage"].flatten()


def unless_flat(part: Any) -> Tensor:
    batch = per_row(ragged((1, 1, 1, 1)), [0.0, 0.1, 0.2, 0.3])
    return torch.tensor([float(len(part(None, batch)))])


KNOBS = (
    Knob(credit_flat.FlatGroups(), flattened, {"tolerance": 0.2}),
    Knob(flat.UnlessFlat(), unless_flat, {"least": 0.5}),
    Knob(self_play_losses.DenoisingPreference(), on_pairs, {"beta": 2.0, "points": 2}),
    Knob(self_play.RecordedAgainst(), against, {"temperature": 0.5}),
    Knob(earlier.EarlierSelf(every=2), kept_selves, {"every": 3}),
    Knob(
        negative_aware.NegativeAware(),
        on_forward_process,
        {"beta": 0.5, "scale": 2.0, "pull": 0.0, "points": 2},
    ),
    Knob(credit_shares.GoodShare(), shares, {"bound": 0.5, "epsilon": 0.1, "ddof": 1, "least": 0.45}),
    Knob(solved.UnsolvedGroups(), unsolved, {"spread": 0.2, "most": 0.35}),
    Knob(solved.UnretiredTasks(), retired, {"spread": 0.01, "most": 0.97}),
    Knob(warming.WarmingAverage("old"), followed, {"slope": 0.01, "most": 0.1}),
    Knob(prior.WithPrior(), with_prior, {"size": 2}),
    Knob(clamped.ClampedSurrogate(), clamped_loss, {"clip": 0.05}),
    Knob(
        history.TaskStandardised(),
        with_history,
        {"past": 1, "fewest": 7, "ddof": 0, "epsilon": 0.1, "bound": 0.2},
    ),
    Knob(history.SignWeighted(), signed, {"positive": 2.0, "negative": 0.5}),
    Knob(heads.PerHead(), credited, {"epsilon": 0.1, "ddof": 0, "bound": 0.5}),
    Knob(extremes.BestAndWorst(4), kept, {"keep": 2}),
    Knob(extremes.ClearExtremes(), kept, {"high": 1.0, "low": -0.65}),
    Knob(steps.RandomSteps(), thinned, {"share": 0.3}),
    Knob(progress.BackwardProgress(), stems, {"first": 10, "last": 18, "rounds": 60}),
    Knob(
        clipping.ClipByNoise(0.01, 0.2, count=3, end=3),
        ranges,
        {"least": 0.05, "most": 0.1, "rate": 1.0, "count": 2, "end": 4},
    ),
    Knob(denoising.OverDenoising(GroupStandardised()), on_two_clocks, {"gamma": 0.5}),
    Knob(advantages.StandardisedAdvantages(), prepared, {"low": 0.2, "high": 0.8}),
)
