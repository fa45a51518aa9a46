"""Pairwise-RL: `reduces_to` of specification 110, each identity a test."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from contests import BIASED, answers, chances
from policyopt.compose import Program, Stage
from policyopt.engines.plain import generate
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.reward.wins import WinRate
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.types import Batch
from policyopt.worlds.sequences import SequenceWorld
from support import close, context, method, numbers

pytestmark = pytest.mark.usefixtures("float64")


@dataclass(frozen=True)
class Judged(SequenceWorld):
    """Two answers a, b of a task become the judge's task A a + b, whose verdicts are 0, "the first", and 1."""

    bench: SequenceWorld | None = None

    def verdicts(self, first: Batch, second: Batch, own: Batch | None = None) -> tuple[Batch, Batch]:
        assert self.bench is not None
        tasks = self.bench.tasks(first.step["_step"][:, 0] * self.choices + second.step["_step"][:, 0])
        said = torch.zeros(len(tasks), 1, dtype=torch.int64)
        return self.bench.complete(tasks, said), self.bench.complete(tasks, said + 1)


def verdicts(game: Tensor) -> SequenceWorld:
    """Recorded verdicts on every two answers in both orders: the more probable one (0, the first, of equals)."""
    right = (game.flatten() < 0.5).long()[:, None]
    return SequenceWorld(len(right), 2, 1, lambda s, t: torch.zeros(len(t)), recordings=right)


def judged(game: Tensor, tasks: int = 2) -> Judged:
    plain = answers(game, tasks)
    return Judged(tasks, len(game), 1, plain.reward, recordings=plain.recordings, bench=verdicts(game))


def test_a_judge_is_asked_in_both_orders() -> None:
    """Pw = (q(first | a, b) + 1 - q(first | b, a)) / 2, so that Pw(a, b) + Pw(b, a) = 1 whatever its habits."""
    world, judge = judged(BIASED), Table(numbers(9, 2, seed=3) + torch.tensor([2.0, 0.0]))
    answer = torch.tensor([[0], [1], [2], [1]])
    rows = world.complete(world.tasks(torch.tensor([0, 0, 1, 1])), answer)
    rows = rows.with_rows({"group": rows.row["task"]})
    found = WinRate(judge="judge")(context(method(), {"policy": judge, "judge": judge}, world), rows)
    q = judge.logits.detach().softmax(-1)[:, 0].view(3, 3)
    reward = found.step["reward"][:, 0]
    close(reward[0], (q[0, 1] + 1 - q[1, 0]) / 2)
    close(reward[:2].sum(), 1.0)
    close(reward[2], (q[2, 1] + 1 - q[1, 2]) / 2)


def test_a_judge_that_would_rather_say_something_else_is_asked_for_its_two_verdicts() -> None:
    """q is a softmax over the two verdicts (the paper's form): what else a model might say does not shrink it."""
    said = numbers(9, 2, seed=3)
    rather = torch.cat([said, torch.full((9, 1), 12.0)], 1)
    found = []
    for logits in (said, rather):
        world, judge = judged(BIASED), Table(logits)
        rows = world.complete(world.tasks(torch.zeros(2, dtype=torch.int64)), torch.tensor([[0], [1]]))
        rows = rows.with_rows({"group": rows.row["task"]})
        found.append(WinRate(judge="judge")(context(method(), {"policy": judge, "judge": judge}, world), rows))
    close(found[1].step["reward"], found[0].step["reward"])
    assert float((found[0].step["reward"][:, 0] - 0.5).abs().min()) > 0.01


def of_scores(offset: Tensor, seed: int = 1):
    """A contextual bandit whose comparisons come from scores with an offset per task."""
    scores = numbers(3, 4, seed=seed) + offset[:, None]
    return SequenceWorld(
        3,
        4,
        1,
        lambda s, t: scores[t, s[:, 0]],
        recordings=torch.tensor([[1], [3], [0]]),
        compare=lambda a, b, t: torch.sigmoid(scores[t, a[:, 0]] - scores[t, b[:, 0]]),
    )


def trained(offset, **changes):
    made = override(
        load("pairwise_rl"), {"selection.count": 12, "update.optimizers.policy.learning_rate": 0.1, **changes}
    )
    made = replace(made, reward=replace(made.reward, parts=(WinRate(opponents=True), made.reward.parts[1])))
    run = Run({"policy": Table(numbers(3, 4)), "judge": Table(numbers(1, 2))}, of_scores(offset), generate, 2)
    done = list(rounds(run, Program((Stage(made, 2),))))
    return done, run.models["policy"].logits.detach()


def test_from_scores_the_reward_is_their_logistic_difference_to_the_anchor() -> None:
    done, _ = trained(torch.zeros(3))
    rows, scores = done[0].judged, numbers(3, 4, seed=1)
    anchor = torch.tensor([1, 3, 0])[rows.row["task"]]
    won = torch.sigmoid(scores[rows.row["task"], rows.step["_step"][:, 0]] - scores[rows.row["task"], anchor])
    close(rows.step["reward"][:, 0], won)  # policy and reference are still equal: nothing is charged
    assert len(rows) == 12


def test_an_offset_of_the_prompt_changes_nothing() -> None:
    close(trained(torch.tensor([30.0, -7.0, 400.0]))[1], trained(torch.zeros(3))[1])
    assert float((trained(torch.zeros(3))[1] - numbers(3, 4)).abs().max()) > 0.05


def test_the_distance_to_the_reference_is_charged_in_the_reward() -> None:
    done, _ = trained(torch.zeros(3), **{"reward.beta": 0.5})
    rows, scores = done[1].judged, numbers(3, 4, seed=1)
    task, answer = rows.row["task"], rows.step["_step"][:, 0]
    won = torch.sigmoid(scores[task, answer] - scores[task, torch.tensor([1, 3, 0])[task]])
    reference = numbers(3, 4).log_softmax(-1)[task, answer]
    close(rows.step["reward"][:, 0], won - 0.5 * (rows.step["behaviour"][:, 0] - reference))


def test_the_judge_learns_verdicts_in_a_stage_of_its_own_and_then_rewards() -> None:
    game, judge = chances(3, 4), Table(torch.zeros(9, 2))
    rm = override(load("pairwise_rl:pairwise_rm"), {"selection.count": 9, "update.learning_rate": 0.5})
    rl = override(load("pairwise_rl"), {"selection.count": 32})
    models = {"policy": Table(numbers(2, 3)), "judge": judge}
    run = Run(models, judged(game), generate, 3, {"contests": verdicts(game)})
    before = models["policy"].logits.detach().clone()
    done = list(rounds(run, Program((Stage(rm, 20), Stage(rl, 1)))))
    close(judge.logits.argmax(1), verdicts(game).recordings[:, 0])
    close(done[19].judged.row["task"].unique(), torch.arange(9))
    rows = done[-1].judged
    likely = (game[rows.step["_step"][:, 0], 0] > 0.5).double()
    differs = rows.step["_step"][:, 0] != 0
    assert 0 < int(differs.sum()) < 32
    close((rows.step["reward"][:, 0] > 0.5).double()[differs], likely[differs])
    assert float((models["policy"].logits.detach() - before).abs().max()) > 0


def test_with_anchors_of_the_policy_itself_the_expected_reward_is_the_self_play_win_rate() -> None:
    world = answers(BIASED, 1)
    made = load("pairwise_rl")
    own = replace(made.sampling, by="policy")
    made = replace(made, sampling=own, reward=WinRate(opponents=True), roles={"old": made.roles["old"]})
    policy = Table(numbers(1, 3))
    run = Run({"policy": policy, "judge": Table(numbers(1, 2))}, world, generate, 1)
    p = policy.logits.detach().softmax(-1)[0]
    made = override(made, {"selection.count": 4000, "update.epochs": 1})
    rows = next(rounds(run, Program((Stage(made, 1),)))).judged
    answer = rows.step["_step"][:, 0]
    for a in range(3):
        mean = float(rows.step["reward"][answer == a].mean())
        assert mean == pytest.approx(float(BIASED[a] @ p), abs=0.04)
