"""DDPO: what it is on fresh samples, and how it reads a prompt's history (arXiv 2305.13301)."""

from dataclasses import replace

import pytest
import torch

from chains import TASKS, denoiser, drawn, gradient_of, logp_by_hand, one_step, world
from policyopt.compose import Program, Stage
from policyopt.credit.groups import GroupCentred, GroupStandardised
from policyopt.credit.history import REWARDS
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.run import Run
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import Selection
from policyopt.train import rounds
from policyopt.types import Batch
from support import close

pytestmark = pytest.mark.usefixtures("float64")


def small(key: str = "ddpo", size: int = 3, clip: float = 0.1):
    made = load(key)
    made = replace(made, selection=Selection(TASKS), sampling=Group(size), credit=replace(made.credit, fewest=1))
    if key == "ddpo":
        made = replace(made, objective=(replace(made.objective[0], loss=ClippedSurrogate(clip, clip)),))
    return made


def advantage(batch: Batch) -> torch.Tensor:
    return batch.step["advantage"][:, 0]


def test_log_densities_are_those_written_out() -> None:
    policy = denoiser()
    batch = drawn(policy)
    found = policy.score(batch).logp
    for b, row in enumerate(logp_by_hand(policy, batch)):
        close(found[b][batch.trained[b]], torch.stack(row), atol=1e-10)
        close(batch.step["behaviour"][b][batch.trained[b]], torch.stack(row), atol=1e-6)


def test_both_variants_are_reinforce_over_the_chain_on_fresh_samples() -> None:
    """-mean_ik A_i grad log p(x_{k-1} | x_k): with one step per batch the ratio is 1."""
    found = {}
    for key in ("ddpo", "ddpo:ddpo_sf"):
        policy = denoiser()
        begin = denoiser()
        done = one_step(small(key), policy, world(policy))
        batch = done.round.credited
        logp, a = logp_by_hand(begin, batch), advantage(batch)
        terms = [-a[b] * x for b, row in enumerate(logp) for x in row]
        expected = gradient_of(torch.stack(terms).mean(), begin)
        assert float(expected.abs().max()) > 1e-2
        close(done.gradient, expected, atol=1e-6)
        found[key] = done.gradient
    close(found["ddpo"], found["ddpo:ddpo_sf"], atol=1e-6)


def test_no_step_but_random_transitions_is_trained() -> None:
    """Neither the draw of the initial noise nor the deterministic last step."""
    policy = denoiser()
    done = one_step(small(), policy, world(policy))
    assert done.round.kept.trained.tolist()[0] == [False, True, True, True, True, False]


def test_without_history_it_standardises_by_task_as_grpo_does_by_group() -> None:
    """One draw of each task a round: task and group are the same rows."""
    policy = denoiser()
    made = small(size=5)
    ours = one_step(replace(made, credit=replace(made.credit, past=0)), policy, world(policy))
    grpo = replace(made, credit=GroupStandardised(epsilon=1e-6, ddof=0, bound=5.0))
    close(ours.gradient, one_step(grpo, denoiser(), world(policy)).gradient, atol=1e-9)
    centred = one_step(replace(made, credit=GroupCentred()), denoiser(), world(policy))
    assert float((ours.gradient - centred.gradient).abs().max()) > 1e-3


def test_the_history_of_a_prompt_outlives_the_round_and_forgets() -> None:
    """One sample of a prompt a round has no spread of its own; the last rounds give it one."""
    policy = denoiser()
    made = replace(small(size=1), credit=replace(small().credit, past=2, bound=None))
    run = Run({"policy": policy}, world(policy), generate, 0)
    seen: dict[int, list[float]] = {task: [] for task in range(TASKS)}
    for number, done in enumerate(rounds(run, Program((Stage(made, 4),)))):
        for b, task in enumerate(done.judged.row["task"].tolist()):
            seen[task].append(float(done.judged.step["reward"][b].sum()))
            pool = torch.tensor(seen[task][-3:])
            expected = 0.0 if number == 0 else (pool[-1] - pool.mean()) / (pool.std(correction=0) + 1e-6)
            close(advantage(done.credited)[b], expected, atol=1e-6)
    assert {len(held) for task, held in run.cells[REWARDS.name].items() if task != "stage"} == {2}


def test_a_stage_does_not_begin_with_the_rewards_of_another() -> None:
    """Its tasks and rewards may be others, under the same ids: the first round has no history and no spread."""
    policy, made = denoiser(), replace(small(size=1), credit=replace(small().credit, past=2))
    run = Run({"policy": policy}, world(policy), generate, 0)
    for number, done in enumerate(rounds(run, Program((Stage(made, 2), Stage(made, 2))))):
        assert bool(advantage(done.credited).any()) == (number in (1, 3))


def test_prompts_of_another_scale_have_advantages_of_the_same_scale() -> None:
    def scaled(points, task):
        return points[:, 0] * 10.0**task

    policy = denoiser()
    batch = one_step(small(size=8), policy, world(policy, scaled)).round.credited
    spread = [advantage(batch)[batch.row["task"] == task].std(correction=0) for task in range(TASKS)]
    close(torch.stack(spread), torch.ones(TASKS), atol=1e-3)
