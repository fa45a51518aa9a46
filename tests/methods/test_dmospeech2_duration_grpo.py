"""DMOSpeech 2's duration policy: `reduces_to` of specification 14, each identity a test."""

from dataclasses import replace

import pytest
import torch

from chains import DIMS, drawn
from enumeration import Grades, first_step
from policyopt.evaluation.experiments.durations import generated
from policyopt.methods import load
from policyopt.objective.surrogates import ClippedSurrogate, GeometricSequenceSurrogate
from policyopt.policies.chains import flow
from policyopt.policies.denoisers import Conditions, Switched, VectorDenoiser
from policyopt.policies.denoising import Denoiser
from policyopt.update.averaging import RowMean
from support import close, grid, grids, ragged, with_row

pytestmark = pytest.mark.usefixtures("float64")

GRADES = [0.5, 2.0, -1.0, 4.0]


def bandit(key: str = "dmospeech2_duration_grpo", pull: float = 0.0):
    made = load(key)
    return replace(made, constraint=() if pull == 0 else made.constraint)


def one_step_rows():
    return ragged((1, 1, 1, 1))


def test_on_fresh_samples_it_is_group_standardised_reinforce() -> None:
    """Groups are the rows 0, 2 and 1, 3."""
    found = first_step(bandit(), {"policy": grid(0)}, one_step_rows(), Grades(GRADES))
    expected = torch.zeros(4)
    for rows in ([0, 2], [1, 3]):
        r = torch.tensor([GRADES[b] for b in rows])
        expected[rows] = (r - r.mean()) / (r.std() + 1e-6)
    close(found.gradient[:4, 0], -expected / 4, atol=1e-12)


def test_rows_of_one_step_make_step_and_sequence_ratios_one() -> None:
    models, batch = grids(), one_step_rows()
    old = models["old"].logp.detach()[:4, :1]
    by_step = first_step(bandit(), models, batch, Grades(GRADES), old=old)
    made = bandit()
    (term,) = made.objective
    assert isinstance(term.loss, ClippedSurrogate)
    whole = replace(
        made,
        objective=(
            replace(
                term, loss=GeometricSequenceSurrogate(0.2, 0.2), average=RowMean(), mask=load("gspo").objective[0].mask
            ),
        ),
    )
    close(first_step(whole, grids(), batch, Grades(GRADES), old=old).gradient, by_step.gradient)


def test_it_is_grpo_but_for_the_estimator_of_the_divergence() -> None:
    batch, grades = one_step_rows(), Grades(GRADES)
    grpo = replace(load("grpo"), constraint=())
    close(first_step(bandit(), grids(), batch, grades).gradient, first_step(grpo, grids(), batch, grades).gradient)
    models = grids()
    pull = first_step(bandit(pull=0.04), models, batch, Grades([0.0] * 4))
    assert len(pull.round.kept) == 0  # nothing differs: the round is left out, its divergence term too
    models = grids()
    gap = (models["reference"].logp - models["policy"].logp).detach()[:4, 0]
    plain = first_step(bandit(), grids(), batch, grades).gradient[:4, 0]
    both = first_step(bandit(pull=0.04), models, batch, grades).gradient[:4, 0]
    close(both - plain, 0.04 * (1 - gap.exp()) / 4)


def test_a_flat_prompt_keeps_its_raw_reward_in_the_release_only() -> None:
    grades = [-2.0, 1.0, -2.0 + 5e-7, 3.0]
    ours = first_step(bandit(), {"policy": grid(0)}, one_step_rows(), Grades(grades)).advantage
    theirs = first_step(
        bandit("dmospeech2_duration_grpo:released"), {"policy": grid(0)}, one_step_rows(), Grades(grades)
    ).advantage
    close(ours[[0, 2]], torch.zeros(2))
    close(theirs[[0, 2]], torch.tensor([-2.0, -2.0 + 5e-7]))
    close(ours[[1, 3]], theirs[[1, 3]])


def test_without_a_flat_group_the_release_is_the_same() -> None:
    found = [
        first_step(bandit(key), {"policy": grid(0)}, one_step_rows(), Grades(GRADES)).gradient
        for key in ("dmospeech2_duration_grpo", "dmospeech2_duration_grpo:released")
    ]
    close(found[0], found[1])


def test_unscored_rows_are_no_flat_group() -> None:
    batch = with_row(one_step_rows(), scored=[True, True, True, True])
    found = first_step(
        bandit("dmospeech2_duration_grpo:released"), {"policy": grid(0)}, batch, Grades([1.0, 1.0, float("nan"), 2.0])
    )
    close(found.advantage[2], 0.0)


def test_teacher_guided_sampling_at_its_ends_is_teacher_or_student() -> None:
    """k* = 1: the teacher all the way; k* = K + 1: the student; between, the same latent is passed across."""
    teacher, student = (
        VectorDenoiser(DIMS, Conditions(classes=4), width=8, depth=2, seed=seed).double() for seed in (1, 2)
    )
    chain = flow(5, 0.0)

    def samples(network):
        return drawn(Denoiser(network, chain).double()).step["_next"]

    alone = [samples(network) for network in (teacher, student)]
    close(samples(Switched(teacher, student, 0.0)), alone[0])
    close(samples(Switched(teacher, student, float("inf"))), alone[1])
    mixed = samples(Switched(teacher, student, 0.5))  # times 1, 0.8, 0.6 by the teacher, 0.4, 0.2 by the student
    close(mixed[:, :4], alone[0][:, :4])
    assert float((mixed[:, 4:] - alone[0][:, 4:]).abs().min()) > 0


def test_the_frozen_generator_draws_from_its_gaussian() -> None:
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 2, generator=rng)
    centre = torch.tensor([[1.0, -2.0]]).expand(4000, 2)
    found = generated(centre, torch.full((4000,), 60), noise)
    close(found.mean(0), centre[0], atol=0.02)
    close(found.std(0), torch.full((2,), 0.2), atol=0.02)
    one = generated(centre, torch.ones(4000, dtype=torch.int64), noise)
    close(one, centre, atol=1e-9)  # one Euler step is the mean
