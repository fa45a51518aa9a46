"""Every loss against its reference in plain loops: values and gradients, on ragged rows in float64."""

import inspect
import math
import pkgutil
from importlib import import_module
from pathlib import Path

import pytest
import torch

import cases
import policyopt.constraint
import policyopt.objective
from cases import CASES, Case
from policyopt.compose import CompositionError, Loss, Role, Term
from policyopt.constraint.divergence import Entropy, ExactKL
from policyopt.objective.preference import PairLogistic, pair_logistic
from policyopt.objective.supervised import FullReverseKL, GeneralisedJensenShannon
from policyopt.objective.surrogates import (
    ClippedSurrogate,
    GeometricSequenceSurrogate,
    ProductSequenceSurrogate,
    TruncatedImportance,
    clipped_surrogate,
    exact,
    out_of_range,
)
from policyopt.objective.value import SquaredValueError
from policyopt.ops.divergence import jensen_shannon, k1, k2, k3
from policyopt.types import Categorical, Scores
from policyopt.update.averaging import RowMean, SequenceSum, TokenMean
from support import close, context, full_step, grids, method, numbers, ragged

pytestmark = pytest.mark.usefixtures("float64")
TESTS = Path(__file__).parents[1]


def test_every_loss_of_the_library_is_a_case() -> None:
    found = set()
    for package in (policyopt.objective, policyopt.constraint):
        for info in pkgutil.iter_modules(package.__path__):
            module = import_module(f"{package.__name__}.{info.name}")
            for _, part in inspect.getmembers(module, inspect.isclass):
                if issubclass(part, Loss) and part.__module__ == module.__name__ and not inspect.isabstract(part):
                    found.add(part)
    rich = {part for part in found if part.needs}
    assert found - rich == {type(case.loss) for case in CASES.values()}
    # Losses that ask for more than log-probabilities are checked against loops by tests of their own subject.
    references = [import_module(path.stem).REFERENCES for path in TESTS.glob("references_*.py")]
    assert rich <= {part for one in references for part in one}, "add a reference to tests/references_SUBJECT.py"


def check_against_loops(case: Case) -> None:
    for name, (average, weights) in cases.averages(case).items():
        models, batch = grids(case.full), cases.rich()
        loss, gradient = full_step(case.context(average, models), batch, model=case.trains)
        value, slope = cases.expected(case, batch, models, weights)
        assert abs(float(value)) > 1e-3, f"{name}: the expected loss must not be trivially 0"
        assert float(slope.abs().max()) > 1e-3, f"{name}: the expected gradient must not be trivially 0"
        close(loss, value, what=f"{name} loss")
        close(gradient, slope, what=f"{name} gradient")


@pytest.mark.parametrize("key", sorted(CASES))
def test_value_and_gradient_equal_the_loops(key: str) -> None:
    check_against_loops(CASES[key])


def test_all_losses_equal_the_loops() -> None:
    """The same in one function, for planted bugs."""
    for case in CASES.values():
        check_against_loops(case)


def test_clipped_surrogate_by_hand() -> None:
    ratio = torch.tensor([0.5, 1.0, 1.5, 0.5, 1.0, 1.5])
    advantage = torch.tensor([2.0, 2.0, 2.0, -2.0, -2.0, -2.0])
    close(clipped_surrogate(ratio, advantage, 0.2, 0.3), [-1.0, -2.0, -2.6, 1.6, 2.0, 3.0])


def test_clipped_fraction_counts_only_steps_without_gradient() -> None:
    """Not at the bounds themselves, and not where there is no advantage."""
    ratio = torch.tensor([1.25, 1.26, 0.75, 0.74, 1.26, 0.74, 9.0, 0.1])
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0, -1.0, 1.0, 0.0, 0.0])
    assert out_of_range(ratio, advantage, 0.25, 0.25).tolist() == [0, 1, 0, 1, 0, 0, 0, 0]


def test_pair_logistic_by_hand() -> None:
    close(pair_logistic(torch.zeros(1), 0.7), [math.log(2)])
    # beta D = 1: log(1 + 1/e) = 0.31326..., and the other label 1.31326...
    close(pair_logistic(torch.tensor([2.0]), 0.5), [0.3132616875182228])
    close(pair_logistic(torch.tensor([2.0]), 0.5, 0.25), [0.3132616875182228 + 0.25])


def test_estimators_by_hand() -> None:
    d = torch.tensor([0.0, math.log(2), -math.log(2)])
    close(k1(d), [0.0, math.log(2), -math.log(2)])
    close(k2(d), [0.0, 0.5 * math.log(2) ** 2, 0.5 * math.log(2) ** 2])
    close(k3(d), [0.0, 0.5 - 1 + math.log(2), 2 - 1 - math.log(2)])


def test_jensen_shannon_by_hand_and_its_limits() -> None:
    """Two disjoint distributions at beta 1/2: log 2. JSD / beta -> forward KL as beta -> 0, JSD / (1 - beta) ->
    reverse KL as beta -> 1."""
    p, q = torch.tensor([1.0, 0.0]).log(), torch.tensor([0.0, 1.0]).log()
    close(jensen_shannon(p, q, 0.5), math.log(2))
    student, teacher = numbers(5, seed=1).log_softmax(-1), numbers(5, seed=2).log_softmax(-1)
    forward = (teacher.exp() * (teacher - student)).sum()
    reverse = (student.exp() * (student - teacher)).sum()
    close(jensen_shannon(student, teacher, 1e-7) / 1e-7, forward, atol=1e-5)
    close(jensen_shannon(student, teacher, 1 - 1e-7) / 1e-7, reverse, atol=1e-5)


def test_impossible_choices_have_finite_gradients() -> None:
    """Masked choices (probability 0 in both) count 0 in value and gradient of KL, entropy and Jensen-Shannon."""
    mask = torch.tensor([0.0, -math.inf, 0.0, 0.0, -math.inf])
    small = torch.tensor([0, 2, 3])
    first, second = numbers(5, seed=3), numbers(5, seed=4)

    def measures(logits: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        p, q = Categorical.of(logits), Categorical.of(other)
        return torch.stack([p.kl(q), p.entropy(), jensen_shannon(p.logp, q.logp, 0.3)])

    for index in range(3):
        masked = first.clone().requires_grad_()
        plain = first[small].clone().requires_grad_()
        a = measures(masked + mask, second + mask)[index]
        b = measures(plain, second[small])[index]
        a.backward()
        b.backward()
        close(a, b)
        close(masked.grad[small], plain.grad)
        close(masked.grad[[1, 4]], [0.0, 0.0])


def test_a_bound_is_refused_in_a_ratio() -> None:
    with pytest.raises(CompositionError, match="policy has scores that are only bounds"):
        exact(Scores(torch.zeros(1, 1), exact=False), "policy")
    batch = ragged().with_scores({"old": Scores(torch.zeros(4, 13), exact=False)})
    with pytest.raises(CompositionError, match="old has scores"):
        full_step(CASES["clipped"].context(), batch)


@pytest.mark.parametrize("loss", [FullReverseKL(), GeneralisedJensenShannon(), ExactKL(), Entropy()])
def test_losses_of_distributions_ask_for_them(loss: Loss) -> None:
    ctx = context(method(Term("one", loss, TokenMean())), grids())
    with pytest.raises(CompositionError, match=r"full=True"):
        full_step(ctx, ragged())


@pytest.mark.parametrize(
    "make",
    [
        lambda: ClippedSurrogate(0.0, 0.2),
        lambda: ClippedSurrogate(1.1, 0.2),
        lambda: ClippedSurrogate(0.2, 0.0),
        lambda: ClippedSurrogate(0.2, 0.2, dual_clip=1.0),
        lambda: GeometricSequenceSurrogate(-1.0, 0.2),
        lambda: ProductSequenceSurrogate(0.2, -0.1),
        lambda: PairLogistic(beta=0.0),
        lambda: PairLogistic(label_smoothing=0.5),
        lambda: GeneralisedJensenShannon(beta=1.0),
        lambda: SquaredValueError(clip=0.0),
        lambda: TruncatedImportance(cap=0.0),
        lambda: SequenceSum(constant=0.0),
    ],
)
def test_options_out_of_range_are_refused(make) -> None:
    with pytest.raises(CompositionError):
        make()


def test_a_row_loss_with_a_step_mask_is_refused() -> None:
    ctx = context(method(Term("one", GeometricSequenceSurrogate(), TokenMean())), grids())
    with pytest.raises(CompositionError, match="a row loss a row mask"):
        full_step(ctx, ragged())


def test_missing_roles_are_refused_when_composed() -> None:
    with pytest.raises(CompositionError, match="'old'"):
        method(Term("one", ClippedSurrogate(), TokenMean()), roles={"reference": Role("reference")})


def test_pairs_need_both_sides() -> None:
    batch = ragged()[torch.tensor([0, 1, 3])]
    with pytest.raises(ValueError, match="exactly one row of rank 0 and one of rank 1"):
        full_step(CASES["pair_logistic"].context(), batch)


def test_a_pair_counts_only_if_both_sides_are_trained() -> None:
    case, batch = CASES["pair_logistic"], ragged()
    train = batch.step["train"].clone()
    train[2] = False  # the rejected side of pair 0
    loss, gradient = full_step(case.context(RowMean()), batch.with_steps({"train": train}))
    alone, slope = full_step(case.context(RowMean()), batch[torch.tensor([1, 3])])
    close(loss, alone)
    close(gradient, slope)
