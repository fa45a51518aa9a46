"""Critics of steps and pathwise policy losses: against plain loops, by hand, and the ends of steps (trap 51)."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import references_values as loops
from policyopt.compose import CompositionError, Term
from policyopt.compose.models import Positive
from policyopt.constraint.cloning import CloneSteps, WriteAgain
from policyopt.distributions import epsilon_greedy
from policyopt.objective.action_values import (
    ExpectileValue,
    GreedyValue,
    Heads,
    PolicyValue,
    SmoothedValue,
    SoftStateValue,
    StateValue,
    TemporalDifference,
    ended,
)
from policyopt.objective.pathwise import ByValueScale, MirrorDescent, SoftImprovement, TemperatureError, ValueOfMode
from policyopt.objective.surrogates import PolicyGradient
from policyopt.objective.weighted import AdvantageWeighted, WithCriticAdvantage
from policyopt.ops.random import generator
from policyopt.run import StageContext
from policyopt.seen import SeenBatch
from policyopt.types import Batch, Finish
from policyopt.update.averaging import SequenceMean, TokenMean
from references_values import (
    WEIGHT,
    composed,
    mirror_models,
    models_of,
    places,
    plain,
    stepped,
    table,
    table_critic,
    table_q,
    transitions,
)
from support import close

pytestmark = pytest.mark.usefixtures("float64")


class Sums:
    """Adds up weighted values and derivatives of the loops."""

    def __init__(self, model: nn.Module, batch: Batch):
        self.value, self.batch = 0.0, batch
        self.slopes = {name: torch.zeros_like(p).detach() for name, p in model.named_parameters()}
        counts = batch.trained.sum(1)
        self.weights = [WEIGHT / max(int(n), 1) / int((counts > 0).sum()) for n in counts]

    def add(self, row: int, value: float, **slopes: tuple[Any, Any]) -> None:
        """slopes: name = (index, derivative)."""
        self.value += self.weights[row] * value
        for name, (index, slope) in slopes.items():
            self.slopes[name][index] += self.weights[row] * torch.as_tensor(slope)


def check(ctx: StageContext, batch: Batch, sums: Sums) -> None:
    assert abs(sums.value) > 1e-3
    assert all(float(slope.abs().max()) > 1e-3 for name, slope in sums.slopes.items() if name not in ("c", "k"))
    for micro_rows in (None, 1, 3):
        ctx.run.tick()
        ctx.run.step = 0
        loss, gradient = stepped(ctx, batch, micro_rows)
        close(loss, sums.value, what=f"loss in micro-batches of {micro_rows}")
        for name, slope in sums.slopes.items():
            close(gradient[name], slope, what=f"{name} in micro-batches of {micro_rows}")


def noise_of(purpose: str, batch: Batch) -> list:
    shape = (*batch.own.shape, loops.DIMS)
    return torch.randn(shape, generator=generator(0, purpose, 0, 0), dtype=torch.float64).tolist()


# -- temporal differences ----------------------------------------------------------------------------------------------
def next_values(kind: str, models: Mapping[str, Any], batch: Batch) -> dict[tuple[int, int], float]:
    """What the state after each trained step is worth, by loops."""
    tables = {name: plain(model) for name, model in models.items()}
    found = {}
    for b, t, _, after, _ in places(batch):
        if kind in ("greedy", "double", "expected", "soft"):
            heads = tables["target"]["values"]
            worth = [min(heads[e][after][a] for e in range(2)) for a in range(loops.CHOICES)]
        if kind == "greedy":
            found[b, t] = max(worth)
        elif kind == "double":
            own = tables["critic"]["values"]
            online = [min(own[e][after][a] for e in range(2)) for a in range(loops.CHOICES)]
            found[b, t] = worth[online.index(max(online))]
        elif kind in ("expected", "soft"):
            alpha = 0.3 if kind == "soft" else 0.0
            p = loops.softmax(tables["policy"]["logits"][after])
            found[b, t] = sum(x * (q - alpha * math.log(x)) for x, q in zip(p, worth, strict=True))
        elif kind == "sampled":
            noise = noise_of("next step", batch)[b][t]
            a, logp = loops.tanh_normal(tables["policy"], after, noise)
            found[b, t] = loops.least(tables["target"], after, a)[0] - 0.3 * logp
        elif kind == "smoothed":
            noise = noise_of("smoothing", batch)[b][t]
            mode = [math.tanh(m) for m in tables["target_policy"]["mean"][after]]
            a = [m + min(max(0.6 * n, -0.4), 0.4) for m, n in zip(mode, noise, strict=True)]
            found[b, t] = loops.least(tables["target"], after, a, squashed=False)[0]
        else:
            found[b, t] = tables["value"]["values"][after]
    return found


BOOTSTRAPS = {
    "greedy": GreedyValue(),
    "double": GreedyValue(chooser="critic"),
    "expected": PolicyValue(),
    "soft": PolicyValue(temperature=0.3),
    "sampled": PolicyValue(temperature="temperature"),
    "smoothed": SmoothedValue(noise=0.6, clip=0.4),
    "state": StateValue(),
}


def expected_difference(kind: str, models: Mapping[str, Any], batch: Batch, huber: float | None) -> Sums:
    sums, worth = Sums(models["critic"], batch), next_values(kind, models, batch)
    critic, pathwise = plain(models["critic"]), "temperature" in models
    for b, t, s, _, over in places(batch):
        reward = float(batch.step["reward"][b, t])
        target = reward + (0.0 if over else 0.9 * worth[b, t])
        if not pathwise:
            a = int(batch.step["_step"][b, t])
            value, slopes = loops.temporal_difference([critic["values"][e][s][a] for e in range(2)], target, huber)
            sums.add(b, value, values=((slice(None), s, a), slopes))
            continue
        a, squashed = batch.step["_action"][b, t].tolist(), kind == "sampled"
        q = [loops.bowl(critic, e, s, a, squashed=squashed)[0] for e in range(2)]
        value, slopes = loops.temporal_difference(q, target, huber)
        y = torch.tensor([math.tanh(x) if squashed else x for x in a])
        by = torch.tensor(slopes)
        sums.add(b, value, c=((slice(None), s), by), w=((slice(None), s), by[:, None] * y))
        sums.slopes["k"][:, s] -= sums.weights[b] * by[:, None] * y**2
    return sums


@pytest.mark.parametrize("kind", BOOTSTRAPS)
@pytest.mark.parametrize("huber", [None, 0.8])
def test_temporal_difference_equals_the_loops(kind: str, huber: float | None) -> None:
    models, batch = models_of(kind), transitions()
    loss = TemporalDifference(BOOTSTRAPS[kind], gamma=0.9, huber=huber)
    check(composed(loss, "critic", models), batch, expected_difference(kind, models, batch, huber))


def test_every_temporal_difference_equals_the_loops() -> None:
    """The same in one function, for planted bugs."""
    for kind in BOOTSTRAPS:
        test_temporal_difference_equals_the_loops(kind, 0.8)


def target_of(finish: int, kind: str = "greedy") -> float:
    """The target of a transition with reward 1 whose row ended so, by a critic that says 10 everywhere."""
    models = models_of(kind)
    for name in ("target", "critic"):
        models[name] = table_q(3)
        models[name].values.data.fill_(10.0)
    batch = transitions((1,)).with_rows({"finish": torch.tensor([finish])})
    batch = batch.with_steps({"reward": torch.ones(1, 1), "train": torch.ones(1, 1, dtype=torch.bool)})
    ctx = composed(TemporalDifference(BOOTSTRAPS[kind], gamma=0.9), "critic", models)
    return float(ctx.stage.terms[0].loss.plan(SeenBatch(ctx, batch), batch).step["_target"].detach())


def test_trap_51_only_a_termination_is_worth_nothing_afterwards() -> None:
    """Reward 1, gamma 0.9, critic 10: 10 at every step that a limit or nothing ended, 1 at a termination."""
    assert target_of(int(Finish.STOPPED)) == 1.0
    assert target_of(int(Finish.TRUNCATED)) == 10.0
    assert target_of(int(Finish.RUNNING)) == 10.0


def test_trap_51_flat_transitions_keep_their_ends() -> None:
    """As single steps, whole rows have the same targets; only the last step of a stopped row has ended."""
    models, batch = models_of("greedy"), transitions()
    ctx = composed(TemporalDifference(), "critic", models)
    loss = ctx.stage.terms[0].loss
    flat, rows = batch.flat(), loss.plan(SeenBatch(ctx, batch), batch).step["_target"]
    close(loss.plan(SeenBatch(ctx, flat), flat).step["_target"][:, 0], rows[batch.own])
    close(ended(flat)[:, 0].double(), ended(batch)[batch.own].double())
    assert ended(batch).nonzero().tolist() == [[0, 2], [3, 1]]


def test_masked_targets_leave_no_trace() -> None:
    """nan in rewards behind a row's end, and a critic that says nan of states behind an end."""
    models, batch = models_of("state"), transitions()
    ctx = composed(TemporalDifference(StateValue(), gamma=0.9), "critic", models)
    clean = stepped(ctx, batch)
    dirty = batch.with_steps({"reward": torch.where(batch.trained, batch.step["reward"], math.nan)})
    behind = [after for *_, after, over in places(batch) if over]
    seen = {after for *_, after, over in places(batch) if not over}
    models["value"].values.data[[s for s in behind if s not in seen]] = math.nan
    found = stepped(ctx, dirty)
    close(found[0], clean[0])
    close(found[1]["values"], clean[1]["values"])


def test_the_clipped_error_of_dqn_by_hand() -> None:
    """|error| 0.5: 0.125; 3: 1 (3 - 0.5) = 2.5."""
    models = models_of("greedy")
    models["critic"].values.data.fill_(0.0)
    batch = transitions((1, 1)).with_rows({"finish": torch.tensor([1, 1])})
    batch = batch.with_steps({"reward": torch.tensor([[0.5], [3.0]])})
    ctx = composed(TemporalDifference(huber=1.0), "critic", models)
    loss = ctx.stage.terms[0].loss
    planned = loss.plan(SeenBatch(ctx, batch), batch)
    close(loss(SeenBatch(ctx, batch), planned)[:, 0] / 2, [0.125, 2.5])


# -- state values ------------------------------------------------------------------------------------------------------
def test_expectile_equals_the_loops() -> None:
    models, batch = models_of("greedy"), transitions()
    sums, heads = Sums(models["value"], batch), plain(models["target"])["values"]
    for b, t, s, _, _ in places(batch):
        a = int(batch.step["_step"][b, t])
        value, slope = loops.expectile(
            min(heads[e][s][a] for e in range(2)), float(models["value"].values.data[s]), 0.8
        )
        sums.add(b, value, values=(s, slope))
    check(composed(ExpectileValue(0.8), "value", models), batch, sums)


def fitted(expectile: float) -> float:
    """The minimum over V of the expectile loss of values 0, 1, 2 and 7, taken alike."""
    values = torch.tensor([0.0, 1.0, 2.0, 7.0])
    v = torch.zeros(())
    for _ in range(4000):
        above = values - v
        v = v + 0.05 * 2 * (torch.where(above < 0, 1 - expectile, expectile) * above).mean()
    return float(v)


def test_expectiles_go_from_the_mean_to_the_best() -> None:
    """0.5 is the mean; towards 1 the best recorded step; the optimum of our loss is the fixed point."""
    models = models_of("greedy")
    models["target"].values.data[:] = torch.tensor([0.0, 1.0, 2.0, 7.0])
    batch = transitions((1, 1, 1, 1)).with_steps({"_step": torch.arange(4)[:, None]})
    batch = batch.with_steps({"_state": torch.zeros(4, 1, dtype=torch.int64)})
    assert fitted(0.5) == pytest.approx(2.5)
    assert 6.9 < fitted(0.999) < 7.0
    for expectile in (0.5, 0.7, 0.999):
        models["value"].values.data[0] = fitted(expectile)
        _, gradient = stepped(composed(ExpectileValue(expectile), "value", models), batch)
        close(gradient["values"], torch.zeros(loops.STATES), atol=1e-6)


def test_soft_state_value_equals_the_loops() -> None:
    batch = transitions()
    models = {**models_of("sampled"), "value": table_critic(5)}
    sums, tables = Sums(models["value"], batch), {name: plain(model) for name, model in models.items()}
    noise = noise_of("state value", batch)
    for b, t, s, _, _ in places(batch):
        a, logp = loops.tanh_normal(tables["policy"], s, noise[b][t])
        target = loops.least(tables["critic"], s, a)[0] - 0.3 * logp
        value, slope = loops.soft_state(target, tables["value"]["values"][s])
        sums.add(b, value, values=(s, slope))
    check(composed(SoftStateValue(0.3), "value", models), batch, sums)
    check(composed(SoftStateValue("temperature"), "value", models), batch, sums)


# -- pathwise ----------------------------------------------------------------------------------------------------------
def test_soft_improvement_equals_the_loops() -> None:
    batch, models = transitions(), models_of("sampled")
    sums, policy, critic = Sums(models["policy"], batch), plain(models["policy"]), plain(models["critic"])
    noise = noise_of("own step", batch)
    for b, t, s, _, _ in places(batch):
        value, mean, spread = loops.soft_improvement(policy, critic, s, noise[b][t], 0.3)
        sums.add(b, value, mean=(s, mean), log_std=(s, spread))
    check(composed(SoftImprovement(0.3), "policy", models), batch, sums)
    check(composed(SoftImprovement("temperature"), "policy", models), batch, sums)


def test_soft_improvement_is_exact_over_choices() -> None:
    batch, models = transitions(), models_of("greedy")
    sums, heads = Sums(models["policy"], batch), plain(models["critic"])["values"]
    for b, _, s, _, _ in places(batch):
        worth = [min(heads[e][s][a] for e in range(2)) for a in range(loops.CHOICES)]
        logits = models["policy"].logits[s].tolist()
        value, slope = loops.over_choices(logits, lambda a, logp, worth=worth: 0.3 * logp - worth[a])
        sums.add(b, value, logits=(s, slope))
    check(composed(SoftImprovement(0.3), "policy", models), batch, sums)


def test_mirror_descent_equals_the_loops() -> None:
    batch, models = transitions(), mirror_models()
    sums, noise = Sums(models["policy"], batch), noise_of("own step", batch)
    policy, old, critic = (plain(models[name]) for name in ("policy", "old", "critic"))
    for b, t, s, _, _ in places(batch):
        value, mean, spread = loops.mirror_descent(policy, old, critic, s, noise[b][t], 1.3, 0.2)
        sums.add(b, value, mean=(s, mean), log_std=(s, spread))
    check(composed(MirrorDescent(1.3, 0.2), "policy", models), batch, sums)


def test_mirror_descent_is_exact_over_choices() -> None:
    batch, models = transitions(), {**models_of("greedy"), "old": table(30)}
    sums, heads = Sums(models["policy"], batch), plain(models["critic"])["values"]
    for b, _, s, _, _ in places(batch):
        before = [math.log(p) for p in loops.softmax(models["old"].logits[s].tolist())]
        logits = models["policy"].logits[s].tolist()
        value, slope = loops.over_choices(
            logits, lambda a, logp, old=before, s=s: 1.3 * logp - 1.1 * old[a] - heads[0][s][a]
        )
        sums.add(b, value, logits=(s, slope))
    check(composed(MirrorDescent(1.3, 0.2), "policy", models), batch, sums)


def test_value_of_the_mode_equals_the_loops() -> None:
    batch, models = transitions(), models_of("smoothed")
    policy, critic = plain(models["policy"]), plain(models["critic"])
    choices: tuple[tuple[Heads, tuple[int, ...]], ...] = (("first", (0,)), ("mean", (0, 1)))
    for heads, numbers in choices:
        sums = Sums(models["policy"], batch)
        for b, _, s, _, _ in places(batch):
            both = [loops.value_of_mode(policy, critic, s, head) for head in numbers]
            sums.add(b, sum(v for v, _ in both) / len(both))
            for _, slope in both:
                sums.add(b, 0.0, mean=(s, torch.tensor(slope) / len(both)))
        check(composed(ValueOfMode(heads=heads), "policy", models), batch, sums)


def test_cloning_equals_the_loops() -> None:
    batch, models = transitions(), models_of("smoothed")
    sums, policy = Sums(models["policy"], batch), plain(models["policy"])
    for b, t, s, _, _ in places(batch):
        value, slope = loops.clone(policy, s, batch.step["_action"][b, t].tolist())
        sums.add(b, value, mean=(s, slope))
    for loss in (CloneSteps(), WriteAgain()):
        check(composed(loss, "policy", models), batch, sums)


def test_temperature_error_equals_the_loops() -> None:
    batch, models = transitions(), models_of("sampled")
    sums, policy, noise = Sums(models["temperature"], batch), plain(models["policy"]), noise_of("entropy", batch)
    for b, t, s, _, _ in places(batch):
        entropy = -loops.tanh_normal(policy, s, noise[b][t])[1]
        value, slope = loops.temperature_error(math.log(0.3), entropy, -0.8 * loops.DIMS)
        sums.add(b, value, log=((), slope))
    check(composed(TemperatureError(entropy=-0.8), "temperature", models), batch, sums)


def test_temperature_rises_below_the_target_entropy_and_falls_above() -> None:
    models = {**models_of("greedy"), "temperature": Positive(0.3, torch.zeros(()))}
    entropy = float(models["policy"].at(transitions()).entropy()[transitions().trained].mean().detach())
    for target, sign in ((entropy + 0.5, -1.0), (entropy - 0.5, 1.0)):
        _, gradient = stepped(composed(TemperatureError(entropy=target), "temperature", models), transitions())
        assert math.copysign(1.0, float(gradient["log"])) == sign


def test_advantage_of_the_critics_equals_the_loops() -> None:
    batch, models = transitions(), models_of("greedy")
    sums, heads = Sums(models["policy"], batch), plain(models["target"])["values"]
    for b, t, s, _, _ in places(batch):
        a, p = int(batch.step["_step"][b, t]), loops.softmax(models["policy"].logits[s].tolist())
        q, v = [heads[e][s][a] for e in range(2)], float(models["value"].values.data[s])
        value, slope = loops.advantage_weighted(q, v, math.log(p[a]), 0.5, 3.0)
        sums.add(b, value, logits=(s, [slope * ((x == a) - p[x]) for x in range(loops.CHOICES)]))
    check(composed(WithCriticAdvantage(AdvantageWeighted(0.5, 3.0)), "policy", models), batch, sums)


def test_any_loss_can_have_the_critics_advantage() -> None:
    batch, models = transitions(), models_of("greedy")
    advantage = models["target"].q(batch).amin(0) - models["value"].value(batch)[:, :-1]
    given = batch.with_steps({"advantage": advantage.detach()})
    loss, gradient = stepped(composed(WithCriticAdvantage(PolicyGradient()), "policy", models), batch)
    # `advantage` is a column that some part must write; here the batch brings it.
    ctx = composed(WithCriticAdvantage(PolicyGradient()), "policy", models)
    inner = PolicyGradient()(SeenBatch(ctx, given), given)
    weights = SequenceMean()(given.trained, given, lambda x: x) * WEIGHT
    close(loss, (weights * torch.where(given.trained, inner, 0.0)).sum())
    assert float(gradient["logits"].abs().max()) > 1e-3


# -- identities --------------------------------------------------------------------------------------------------------
def test_mirror_descent_with_equal_weights_is_sacs_loss() -> None:
    """c = lam: pi_old drops out. The first head is put below the other, so that it is the least one."""
    batch, models = transitions(), mirror_models()
    models["critic"].c.data[1] += 100.0
    mirror = stepped(composed(MirrorDescent(0.4, 0.4), "policy", models), batch)
    soft = stepped(composed(SoftImprovement(0.4), "policy", models), batch)
    close(mirror[0], soft[0])
    for name in mirror[1]:
        close(mirror[1][name], soft[1][name])
    other = stepped(composed(MirrorDescent(0.8, 0.4), "policy", models), batch)
    assert float((other[1]["mean"] - soft[1]["mean"]).abs().max()) > 1e-3


def test_the_best_policy_of_the_soft_loss_is_boltzmann() -> None:
    """Over choices: pi = softmax(Q / alpha) has gradient 0; so has pi_old exp(Q / c) of mirror descent at lam = 0."""
    batch, models = transitions(), {**models_of("greedy"), "old": table(30)}
    critic = models["critic"].values.detach()
    models["policy"].logits.data = critic.amin(0) / 0.3
    _, gradient = stepped(composed(SoftImprovement(0.3), "policy", models), batch)
    close(gradient["logits"], torch.zeros_like(critic[0]))
    models["policy"].logits.data = models["old"].logits.detach().log_softmax(-1) + critic[0] / 1.3
    _, gradient = stepped(composed(MirrorDescent(1.3, 0.0), "policy", models), batch)
    close(gradient["logits"], torch.zeros_like(critic[0]))


def test_no_clip_and_no_noise_is_the_plain_deterministic_target() -> None:
    batch, models = transitions(), models_of("smoothed")
    ctx = composed(TemporalDifference(SmoothedValue(noise=0.0)), "critic", models)
    seen = SeenBatch(ctx, batch)
    mode = seen.at("target_policy", following=True).mode()
    close(SmoothedValue(noise=0.0)(seen, batch), seen.q("target", mode, following=True).amin(0))
    spread = SmoothedValue(noise=5.0, clip=0.1)(seen, batch) - SmoothedValue(noise=0.0)(seen, batch)
    assert float(spread.abs().max().detach()) > 1e-3


def test_values_by_scale_do_not_depend_on_the_scale_of_rewards() -> None:
    """alpha / mean |Q|: ten times larger values, the same gradient; by hand over trained steps."""
    batch, models = transitions(), models_of("smoothed")
    ctx = composed(ValueOfMode(), "policy", models, weight=ByValueScale(2.5))
    before = stepped(ctx, batch)
    close(stepped(ctx, batch, 1)[1]["mean"], before[1]["mean"], what="micro-batches")
    policy, critic = plain(models["policy"]), plain(models["critic"])
    sizes = [abs(loops.value_of_mode(policy, critic, s)[0]) for _, _, s, _, _ in places(batch)]
    close(ByValueScale(2.5)(SeenBatch(ctx, batch), batch), 2.5 * len(sizes) / sum(sizes))
    for parameter in models["critic"].parameters():
        parameter.data *= 10.0
    close(stepped(ctx, batch)[1]["mean"], before[1]["mean"])


def test_only_the_trained_model_gets_a_gradient() -> None:
    batch, models = transitions(), mirror_models()
    stepped(composed(MirrorDescent(), "policy", models), batch)
    for name in ("critic", "target", "old", "temperature"):
        assert all(p.grad is None for p in models[name].parameters()), name


# -- what is refused ---------------------------------------------------------------------------------------------------
def test_what_can_not_work_is_said() -> None:
    for make, message in (
        (lambda: TemporalDifference(gamma=1.1), "gamma must be in 0..1"),
        (lambda: TemporalDifference(huber=0.0), "huber must be above 0"),
        (lambda: PolicyValue(heads=cast(Any, "most")), "heads is one of least, first, mean"),
        (lambda: SmoothedValue(noise=-1.0), "at least 0"),
        (lambda: ExpectileValue(1.0), "inside 0..1"),
        (lambda: ByValueScale(0.0), "alpha must be above 0"),
        (lambda: MirrorDescent(0.0), "proximity must be above 0"),
        (lambda: AdvantageWeighted(0.0), "temperature and cap must be above 0"),
        (
            lambda: composed(TemporalDifference(StateValue("other")), "critic", models_of("greedy")),
            "value model 'other'",
        ),
    ):
        with pytest.raises(CompositionError, match=message):
            make()
    batch, models = transitions(), models_of("greedy")
    for loss in (CloneSteps(), TemporalDifference(SmoothedValue(role="policy"))):
        trains = "policy" if isinstance(loss, CloneSteps) else "critic"
        with pytest.raises(CompositionError, match="choices"):
            stepped(composed(loss, trains, models), batch)
    continuous = {**models_of("sampled"), "policy": Greedy()}
    with pytest.raises(CompositionError, match="reparameterised"):
        stepped(
            composed(SoftImprovement(0.1), "policy", continuous), batch.with_steps({"_action": batch.step["reward"]})
        )


class Greedy(nn.Module):
    """Steps that are numbers under a distribution that can not be differentiated through."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def at(self, batch: Batch, *, following: bool = False) -> Any:
        values = torch.zeros(*batch.own.shape, 1) + self.scale
        return _Undrawn(epsilon_greedy(values, 0.0))

    def taken(self, batch: Batch) -> Tensor:
        return batch.step["_action"]


class _Undrawn:
    def __init__(self, inner: Any):
        self.inner = inner


def test_token_mean_of_flat_steps_is_that_of_rows() -> None:
    """The unit of a temporal difference is a step: flat or in rows, one average."""
    batch, models = transitions(), models_of("greedy")
    term = Term("one", TemporalDifference(), TokenMean(), trains="critic")
    found = []
    for rows in (batch, batch.flat()):
        ctx = composed(TemporalDifference(), "critic", models)
        ctx.stage = replace(ctx.stage, objective=(term,))
        found.append(stepped(ctx, rows))
    close(found[0][0], found[1][0])
    close(found[0][1]["values"], found[1][1]["values"])
