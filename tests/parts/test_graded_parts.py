"""Graded rewards, judged steps, certainty of answers, pruning: against plain loops, and at their edges."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policyopt.compose import Chain, CompositionError, Term
from policyopt.constraint.entropy_covariance import CovarianceEntropy
from policyopt.credit.uncertainty import SemanticEntropyScaled, cluster_entropy
from policyopt.engines.plain import generate
from policyopt.objective.informative import InformativeSteps
from policyopt.objective.supervised import NegativeLogLikelihood
from policyopt.ops.masked import alone
from policyopt.ops.schedules import progress, ramp
from policyopt.ops.sequences import total_reward
from policyopt.policies.tabular import Table
from policyopt.reward.checks import Checked, passed_share
from policyopt.reward.dithering import Dithered
from policyopt.reward.heads import FuzzyError, HeadSum, fuzzy
from policyopt.reward.loops import LengthBonus, LoopPenalty, own_matches, repeated_tail
from policyopt.reward.parts import Verified
from policyopt.reward.steps import LeadingSteps, ShapedChain, WhereNoneRight, geometric_mean, leading_share
from policyopt.selection.pruning import LargestAdvantages, LargestSteps, MostVaried, most_varied
from policyopt.types import Categorical, Finish, Scores
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import losses
from policyopt.worlds.sequences import SequenceWorld, bandit
from said import Said
from support import Grid, close, context, grids, method, numbers, per_row, ragged, rewarded, widened, with_row

pytestmark = pytest.mark.usefixtures("float64")
NAN = float("nan")


def at(world=None, step=0, **models):
    ctx = context(method(), {**grids(), **models}, world)
    ctx.run.step = step
    return ctx


# -- schedules and noise -------------------------------------------------------------------------------------------
def test_ramps_begin_and_end_where_they_say() -> None:
    assert [progress(n, 5) for n in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert progress(0, 1) == 1.0
    assert ramp(2.0, 4.0, 0.25) == 2.5
    assert ramp(2.0, 4.0, 0.25, "cosine") == pytest.approx(4 - (1 + math.cos(math.pi / 4)))
    for shape in ("linear", "cosine"):
        assert ramp(2.0, 4.0, 0.0, shape) == 2.0
        assert ramp(2.0, 4.0, 0.5, shape) == pytest.approx(3.0)
        assert ramp(2.0, 4.0, 1.0, shape) == pytest.approx(4.0)


def test_dither_has_mean_zero_and_the_same_deviation() -> None:
    batch = rewarded(ragged((2,) * 6000), torch.linspace(-1, 1, 6000))
    for noise in ("uniform", "normal"):
        added = total_reward(Dithered(0.3, noise=noise)(at(), batch)) - total_reward(batch)
        assert abs(float(added.mean())) < 4 * 0.3 / 3**0.5 / 6000**0.5
        assert abs(float(added.std()) / (0.3 / 3**0.5) - 1) < 0.04
        assert (float(added.abs().max()) <= 0.3) == (noise == "uniform")


def test_dither_of_scored_rows_only_once_on_the_last_step_and_by_the_round() -> None:
    batch = with_row(rewarded(ragged(), [0.0] * 4), scored=[True, False, True, True])
    one, again = (Dithered(0.5, final=0.0)(at(), batch).step["reward"] for _ in range(2))
    assert torch.equal(one, again), "a function of the run's seed and round"
    changed = (one != batch.step["reward"]).nonzero().tolist()
    assert changed == [[0, 0], [2, 6], [3, 12]]
    assert not torch.equal(one, Dithered(0.5, final=0.0)(at(step=1), batch).step["reward"])
    assert torch.equal(Dithered(0.5, final=0.0)(at(step=9), batch).step["reward"], batch.step["reward"])
    assert torch.equal(Dithered(0.0)(at(), batch).step["reward"], batch.step["reward"])


# -- sums of named grades, errors, checks, lengths -----------------------------------------------------------------
def test_sum_of_heads_moves_from_the_first_weights_to_the_last() -> None:
    world = Said(heads={"a": [1.0, 2.0, 3.0, NAN], "b": [10.0, 20.0, 30.0, 40.0], "unused": [NAN] * 4})
    part = HeadSum({"a": 1.0, "b": 0.5}, final={"a": 0.0, "b": 1.0}, shape="linear")
    for step, (wa, wb) in ((0, (1.0, 0.5)), (3, (2 / 3, 0.5 + 1 / 6)), (9, (0.0, 1.0))):
        found = part(at(world, step), ragged())
        expected = [wa * a + wb * b for a, b in ((1, 10), (2, 20), (3, 30))]
        close(total_reward(found)[:3], expected)
        assert found.row["scored"].tolist() == [True, True, True, False]
        assert float(total_reward(found)[3]) == 0.0
        close(total_reward(found, "reward:b"), [10.0, 20.0, 30.0, 0.0])
    close(part.at(0.5)["b"], 0.75)
    close(HeadSum({"a": 1.0}, final={"a": 0.0}).at(0.25)["a"], 0.5 * (1 + math.cos(math.pi / 4)))


def test_heads_that_the_world_does_not_have_are_refused() -> None:
    with pytest.raises(CompositionError, match="not among the rewards"):
        HeadSum({"c": 1.0})(at(Said(heads={"a": [0.0] * 4})), ragged())
    with pytest.raises(CompositionError, match="final only names"):
        HeadSum({"a": 1.0}, final={"b": 1.0})
    with pytest.raises(CompositionError, match="use reward=verified"):
        HeadSum()(at(object()), ragged())


def test_fuzzy_error_jumps_at_its_limit() -> None:
    error = torch.tensor([0.0, 0.1, 0.49, 0.5, 0.51, 1e6])
    close(fuzzy(error, 0.5, 1.5), [1.5, 1.4, 1.01, 0.0, 0.0, 0.0])
    batch = rewarded(ragged(), [1.0, 0.0, 0.0, 0.0])
    batch = batch.with_steps({"reward:error": rewarded(batch, [0.2, 0.7, 0.0, 0.3]).step["reward"]})
    found = FuzzyError()(at(), with_row(batch, scored=[True, True, False, True]))
    close(total_reward(found), [2.3, 0.0, 0.0, 1.2])
    with pytest.raises(CompositionError, match="no reward is negative"):
        FuzzyError(limit=2.0)


def test_checks_of_other_tasks_do_not_count() -> None:
    checks = torch.tensor([[1.0, 0.0, NAN], [1.0, 1.0, NAN], [NAN, NAN, NAN], [1.0, 0.5, 1.0]])
    close(passed_share(checks), [0.5, 1.0, 0.0, 2.5 / 3])
    batch, ctx = rewarded(ragged(), [1.0, 1.0, 0.0, 0.0]), at(Said(checks=checks))
    close(total_reward(Checked(0.1)(ctx, batch)), [1.05, 1.1, 0.0, 0.25 / 3])
    close(total_reward(Checked(2.0, every=True)(ctx, batch)), [1.0, 3.0, 0.0, 0.0])
    with pytest.raises(CompositionError, match=r"asks the world which of its checks a row passes \('checks'\)"):
        Checked()(at(object()), batch)


def test_length_bonus_counts_own_steps() -> None:
    batch = rewarded(ragged(), [0.0] * 4)
    close(total_reward(LengthBonus(0.5, 10)(at(), batch)), [0.05, 0.1, 0.25, 0.5])


# -- judged steps --------------------------------------------------------------------------------------------------
def loops_of_steps(said, counted, right):
    """k / n and the geometric mean of every row."""
    share, mean = [], []
    for row, mask in zip(said.tolist(), counted.tolist(), strict=True):
        judged = [s for s, m in zip(row, mask, strict=True) if m]
        good = len(list(itertools.takewhile(lambda s: s >= right, judged)))
        share.append(good / len(judged) if judged else 0.0)
        mean.append(math.exp(sum(math.log(s) for s in judged) / len(judged)) if judged else 1.0)
    return share, mean


@given(st.integers(0, 10_000), st.floats(0.2, 0.8))
def test_leading_share_and_geometric_mean_equal_the_loops(seed, right) -> None:
    rng = torch.Generator().manual_seed(seed)
    said, counted = torch.rand(5, 6, generator=rng), torch.rand(5, 6, generator=rng) < 0.7
    share, mean = loops_of_steps(said, counted, right)
    close(leading_share(said, counted, right), share)
    close(geometric_mean(said, counted), mean)


def test_steps_that_are_not_judged_and_steps_of_others_do_not_count() -> None:
    said = torch.ones(4, 13)
    said[2] = torch.tensor([1.0, NAN, 1.0, 0.0, 0.0, 0.2, 1.0, *[NAN] * 6])  # places 3 and 4 are a tool's
    said[1] = NAN
    batch = rewarded(ragged(), [9.0] * 4)
    found = LeadingSteps()(at(Said(judge_steps=said)), batch)
    close(total_reward(found), [1.0, 0.0, 2 / 4, 1.0])
    again = LeadingSteps()(at(Said(judge_steps=torch.cat([said, torch.zeros(4, 3)], 1))), widened(batch, 3))
    close(total_reward(again), total_reward(found))


def test_only_groups_without_a_right_row_are_judged() -> None:
    asked = []
    said = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])

    def judge(batch):
        asked.extend(batch.row["_row"].tolist())
        return said[batch.row["_row"], : batch.steps]

    world = SimpleNamespace(judge_steps=judge)
    batch = rewarded(ragged((3, 3, 3, 3)), [0.0, 0.0, 1.0, 0.0])  # rows 0 and 2 are one group, 1 and 3 the other
    found = WhereNoneRight(scale=0.5)(at(world), batch)
    assert asked == [1, 3]
    close(total_reward(found), [0.0, 0.0, 1.0, 0.5])
    unscored = with_row(batch, scored=[True, True, False, True])
    found = WhereNoneRight()(at(world), unscored)
    close(total_reward(found)[[0, 1, 3]], [2 / 3, 0.0, 1.0])
    assert found.row["scored"].tolist() == [True, True, False, True]
    solved = rewarded(batch, [1.0, 1.0, 0.0, 0.0])
    assert WhereNoneRight()(at(), solved) is solved, "no judge is asked"
    with pytest.raises(CompositionError, match="above 0"):
        WhereNoneRight(scale=0.0)


def shaped(m, n):
    """The released code of PSPO*, with numbers in place of names."""
    if 0 < n <= 4:
        return m * math.exp(0.5 * n)
    g = 1 / (1 + math.exp(-10 * (n - 4)))
    if m > 0.88433:
        h = m * math.exp(2) * math.exp(0.1 * (n - 4))
    elif 0 < m < 0.2:
        h = m * math.exp(2) * math.exp(-0.1 * (n - 4))
    else:
        h = m * math.exp(2) * math.exp(0.1 * (n - 4) * (m - 0.21159) / 0.88433)
    return (1 - g) * m * math.exp(2) + g * h


@given(st.floats(0.01, 1.0), st.integers(2, 40))
def test_the_piecewise_factor_is_the_released_one(m, n) -> None:
    found = ShapedChain().weight(torch.tensor([m]), torch.tensor([float(n)]))
    assert float(found) == pytest.approx(shaped(m, n), rel=1e-10)


def test_weibull_factors_by_hand() -> None:
    m, n = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([2.0, 4.0, 8.0])
    close(ShapedChain("rising").weight(m, n), [1 - math.exp(-((x / 4) ** 2)) for x in (2, 4, 8)])
    close(ShapedChain("peaked").weight(m, n), [0.5 * (x / 4) * math.exp(-((x / 4) ** 2)) for x in (2, 4, 8)])
    close(ShapedChain("flat").weight(m, n), [1.0, 1.0, 1.0])


# -- loops ---------------------------------------------------------------------------------------------------------
def slow_tail(items):
    n = len(items)
    for q in range(n // 2, 0, -1):
        c = 1
        while n - q * (c + 1) >= 0 and items[n - q * (c + 1) : n - q * c] == items[n - q :]:
            c += 1
        if c >= 2:
            return q * c / n
    return 0.0


@given(st.lists(st.integers(0, 1), max_size=14))
def test_repeated_tails_equal_the_definition(items) -> None:
    assert repeated_tail(items) == slow_tail(items)
    z = own_matches(items)
    for q in range(1, len(items)):
        assert z[q] == len(list(itertools.takewhile(lambda p: p[0] == p[1], zip(items, items[q:], strict=False))))


def test_only_truncated_rows_that_repeat_themselves_are_charged() -> None:
    class Speaks(Grid):
        def taken(self, batch):
            return torch.tensor([[1, 0, 0], [5, 2, 2], [1, 2, 3], [4, 4, 4]])[batch.row["_row"]]

    batch = rewarded(ragged((1, 3, 3, 3)), [1.0] * 4)
    cut = int(Finish.TRUNCATED)
    batch = with_row(batch, finish=[cut, cut, cut, int(Finish.STOPPED)])
    ctx = at(policy=Speaks(logp=numbers(8, 104)))
    close(total_reward(LoopPenalty(0.1)(ctx, batch)), [1.0, 0.9, 1.0, 1.0])
    close(total_reward(LoopPenalty(0.3, adaptive=True)(ctx, batch)), [1.0, 0.8, 1.0, 1.0])


# -- certainty of answers ------------------------------------------------------------------------------------------
def slow_entropy(keys, group, logit, valid):
    found = []
    for b in range(len(keys)):
        rows = [i for i in range(len(keys)) if group[i] == group[b] and valid[i]]
        total = sum(math.exp(logit[i]) for i in rows)
        mass: dict = {}
        for i in rows:
            key = keys[i] if keys[i] >= 0 else ("unread", i)
            mass[key] = mass.get(key, 0.0) + math.exp(logit[i]) / total
        found.append(-sum(p * math.log(p) for p in mass.values()))
    return found


@given(st.integers(0, 10_000))
def test_cluster_entropy_equals_the_loops(seed) -> None:
    rng = torch.Generator().manual_seed(seed)
    keys = torch.randint(-1, 3, (7,), generator=rng)
    group, logit = torch.randint(2, (7,), generator=rng), torch.randn(7, generator=rng)
    valid = torch.rand(7, generator=rng) < 0.8
    found = cluster_entropy(keys, group, logit, valid)
    close(found, slow_entropy(keys.tolist(), group.tolist(), logit.tolist(), valid.tolist()))


def test_factors_by_hand_and_without_a_group() -> None:
    unsure = torch.tensor([0.0, 0.5, 1.0])
    close(SemanticEntropyScaled(1.0).factor(unsure), [1.0, 2 / 3, 0.5])
    close(SemanticEntropyScaled(1.0, "linear").factor(unsure), [1.0, 0.5, 0.0])
    close(SemanticEntropyScaled(1.0, "exponential").factor(unsure), [1.0, math.exp(-0.5), math.exp(-1.0)])
    alone = ragged((3, 3))  # two groups of one row
    found = SemanticEntropyScaled(5.0)(at(Said(answer_keys=[1, 2])), alone)
    assert torch.equal(found.step["advantage"], alone.step["advantage"])
    with pytest.raises(CompositionError, match="at most 1 for the linear form"):
        SemanticEntropyScaled(1.5, "linear")


def test_likelihoods_are_per_step_of_the_row() -> None:
    batch, world = ragged(), Said(answer_keys=[0, 0, 1, 1])
    mean = [float(batch.step["behaviour"][b][batch.own[b]].mean()) for b in range(4)]
    entropy = slow_entropy([0, 0, 1, 1], [0, 1, 0, 1], mean, [True] * 4)
    found = SemanticEntropyScaled(2.0)(at(world), batch).step["advantage"] / batch.step["advantage"]
    close(found[:, 0], [1 / (1 + 2 * e / math.log(2)) for e in entropy])
    counted = SemanticEntropyScaled(2.0, shares="count")(at(world), batch).step["advantage"] / batch.step["advantage"]
    close(counted, torch.full((4, 13), 1 / 3))


# -- pruning -------------------------------------------------------------------------------------------------------
@given(st.integers(0, 10_000), st.integers(1, 8), st.booleans())
def test_the_most_varied_subset_is_that_of_a_search_through_all(seed, count, alike) -> None:
    rng = torch.Generator().manual_seed(seed)
    values = torch.randint(2, (8,), generator=rng).double() if alike else torch.randn(8, generator=rng)
    best = max(float(values[list(rows)].var(correction=0)) for rows in itertools.combinations(range(8), count))
    assert float(values[most_varied(values, count)].var(correction=0)) == pytest.approx(best, abs=1e-12)
    assert len(most_varied(values, count).unique()) == count


def test_rows_and_steps_that_were_pruned_leave_and_the_rest_stays() -> None:
    batch = per_row(ragged((2, 2, 2, 2)), [0.5, -2.0, -0.5, 1.0])
    assert LargestAdvantages(0.5)(at(), batch).row["_row"].tolist() == [0, 1], "among equals the first"
    assert LargestAdvantages(0.5, "smallest")(at(), batch).row["_row"].tolist() == [0, 3]
    assert LargestAdvantages(0.5, by="round")(at(), batch).row["_row"].tolist() == [1, 3]
    drawn = {tuple(LargestAdvantages(0.5, "random")(at(step=s), batch).row["_row"].tolist()) for s in range(20)}
    assert drawn == {(a, b) for a, b in itertools.combinations(range(4), 2) if (b - a) % 2}
    assert MostVaried(0.5)(at(), batch).row["_row"].tolist() == [1, 3]
    assert len(MostVaried(0.5)(at(), with_row(batch, scored=[False] * 4))) == 0
    for wrong in (0.0, 1.1):
        with pytest.raises(CompositionError, match="above 0 and at most 1"):
            LargestAdvantages(wrong)


def test_steps_of_large_advantage_and_entropy_stay_trained() -> None:
    batch = per_row(ragged(), [1.0, -3.0, 0.5, 0.0])
    entropy = numbers(8, 104, seed=5).abs() + 0.1
    policy = SimpleNamespace(score=lambda batch, context, full: Scores(entropy[:4, :13], entropy[:4, :13]))
    ctx = at()
    ctx.models = {"old": policy}
    found = LargestSteps(0.3)(ctx, batch).trained
    places = sorted(
        batch.trained.nonzero().tolist(),
        key=lambda p: -float(batch.step["advantage"][p[0], p[1]].abs() * entropy[p[0], p[1]]),
    )
    assert sorted(places[: math.ceil(0.3 * len(places))]) == found.nonzero().tolist()
    assert not bool((found & ~batch.trained).any())


class Counted(dict):
    """Scores by role, on one rank."""

    ctx = SimpleNamespace(total=alone)


# -- entropies -----------------------------------------------------------------------------------------------------
def test_the_bonus_is_where_sure_steps_are_rewarded() -> None:
    """Two rows of two steps, A = 1, 1 and -1, -1; log pi of the steps -1, -3 and -1, -3, mean -2. c = 1, -1 and -1, 1:
    shares e / (e + 1/e) and its rest. Of 10 the larger is cut at 5."""
    batch = per_row(ragged((2, 2)), torch.tensor([1.0, -1.0]))
    logp, logits = torch.tensor([[-1.0, -3.0], [-1.0, -3.0]]), numbers(2, 2, 5).requires_grad_()
    seen = Counted({"policy": Scores(logp, None, Categorical.of(logits))})
    value = CovarianceEntropy()(seen, batch)
    small = 10 * math.exp(-1) / (math.exp(1) + math.exp(-1))
    entropy = Categorical.of(logits).entropy().detach()
    close(value, -torch.tensor([[5.0, small], [small, 5.0]]) * entropy)
    assert bool(torch.autograd.grad(value.sum(), logits)[0].abs().sum() > 0)


def test_informative_steps_of_nothing_and_of_all() -> None:
    batch = ragged()
    seen = {"policy": Scores(numbers(4, 13), numbers(4, 13, seed=1))}
    assert torch.equal(InformativeSteps(1.0)(seen, batch), batch.trained)
    nothing = batch.with_steps({"train": torch.zeros_like(batch.step["train"])})
    assert not bool(InformativeSteps()(seen, nothing).any())
    assert int(InformativeSteps(0.001)(seen, batch).sum()) == 1
    own = batch.trained
    surplus = -seen["policy"].logp - 0.5 * seen["policy"].entropy
    order = sorted(own.nonzero().tolist(), key=lambda place: -float(surplus[place[0], place[1]]))
    kept = InformativeSteps(0.25, 0.5)(seen, batch)
    assert sorted(order[: int(0.25 * len(order))]) == kept.nonzero().tolist()


def test_informative_steps_by_hand() -> None:
    """-log pi less 0.8 H: 2 - 0.8 = 1.2, 1 - 0 = 1, 2 - 1.6 = 0.4, 0.1 - 0.08 = 0.02. Half of four: the first two; by
    the larger of loss and entropy the third would have gone before the second."""
    batch = ragged((4,))
    seen = {"policy": Scores(torch.tensor([[-2.0, -1.0, -2.0, -0.1]]), torch.tensor([[1.0, 0.0, 2.0, 0.1]]))}
    assert InformativeSteps(0.5)(seen, batch).tolist() == [[True, True, False, False]]


# -- worlds --------------------------------------------------------------------------------------------------------
def test_worlds_of_strings_say_what_they_were_given() -> None:
    world = SequenceWorld(
        2,
        3,
        2,
        lambda strings, task: strings.sum(1).double(),
        judge=lambda strings, task: (strings > 0).double(),
        checker=lambda strings, task: torch.stack([strings[:, 0] == task, strings[:, 1] == task], 1).double(),
        answer=lambda strings, task: strings[:, 1],
        heads={"first": lambda strings, task: strings[:, 0].double()},
    )
    made = method(reward=Chain((Verified(), WhereNoneRight(), Checked())))
    ctx = context(made, {"policy": Table(torch.zeros(4, 3))}, world, generate)
    batch = ctx.extend(world.start(world.tasks(torch.tensor([0, 1]))))
    strings = world.strings(batch)
    close(world.judge_steps(batch), (strings > 0).double())
    close(world.checks(batch), (strings == torch.tensor([[0], [1]])).double())
    assert world.answer_keys(batch).tolist() == strings[:, 1].tolist()
    close(world.grade_heads(batch)["first"], strings[:, 0].double())
    with pytest.raises(ValueError, match=r"give SequenceWorld\(judge=\.\.\.\)"):
        bandit(torch.ones(1, 2)).judge_steps(batch)


def test_terms_of_informative_steps_average_over_them_alone() -> None:
    batch, mask = ragged(), InformativeSteps(0.5)
    term = Term("likelihood", NegativeLogLikelihood(), TokenMean(), mask=mask)
    models = grids(full=True)
    ctx = context(method(term), models)
    scores = models["policy"].score(batch)
    kept = mask({"policy": scores}, batch)
    assert 0 < int(kept.sum()) < int(batch.trained.sum())
    whole = sum(losses(ctx, batch, ctx.stage.terms))
    close(whole, -scores.logp[kept].mean())
    close(sum(losses(ctx, batch, ctx.stage.terms, 1)), whole)
