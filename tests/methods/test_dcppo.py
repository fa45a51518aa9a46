"""DCPPO: `reduces_to` of specification 228."""

from dataclasses import replace

import pytest
import torch

from policyopt.compose import CompositionError, Program, Stage
from policyopt.engines.plain import generate
from policyopt.evaluation.experiments.planning import logistic_person
from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import Table
from policyopt.run import Run
from policyopt.train import rounds
from policyopt.types import Batch
from policyopt.update.optimistic import COUNTED, nothing_counted
from policyopt.update.planned import PessimisticChoices, choice_values, greedy
from policyopt.worlds.oracles import finite_values
from policyopt.worlds.tables import RecordedEpisodes, TabularMDP, unrolled
from support import close, numbers

pytestmark = pytest.mark.usefixtures("float64")
HORIZON = 3


def process(seed=0):
    """4 states, 3 choices, the first of reward 0."""
    move = numbers(4, 3, 4, seed=seed).softmax(-1)
    paid = numbers(4, 3, seed=seed + 1).abs()
    paid[:, 0] = 0.0
    start = torch.tensor([1.0, 0.0, 0.0, 0.0])
    return unrolled(TabularMDP(move, paid, start, 1.0, HORIZON))


def exact_counts(mdp, author, size=1e9):
    """Counts as large as if every state had been met `size` times."""
    counts = nothing_counted(mdp.states, mdp.actions)
    counts["visits"] = size * author * (~mdp.ends).double()[:, None]
    counts["reached"] = counts["visits"][..., None] * mdp.transition * (~mdp.ends).double()
    counts["at"] = torch.arange(mdp.states) // 4
    return counts


def test_exact_choice_probabilities_give_the_exact_rewards() -> None:
    for discount in (0.0, 0.6, 1.0):
        mdp = process()
        counts = exact_counts(mdp, logistic_person(mdp, discount), 1e10)
        found = PessimisticChoices(horizon=HORIZON, discount=discount, ridge=1e-6).rewards(counts)
        close(found[~mdp.ends], mdp.mean_reward[~mdp.ends], 1e-7)


def test_without_a_future_it_is_the_log_odds_against_the_known_choice() -> None:
    counts = exact_counts(process(), torch.full((13, 3), 1 / 3), 30.0)
    counts["visits"][0] = torch.tensor([5.0, 2.0, 0.0])
    values = choice_values(counts, 0.0, 0, HORIZON)
    close(values[0], torch.tensor([0.0, 2.5 / 5.5, 0.5 / 5.5]).clamp(min=1e-30).log() * torch.tensor([0.0, 1.0, 1.0]))
    found = PessimisticChoices(horizon=HORIZON, discount=0.0, ridge=1.0).rewards(counts)
    close(found[0], values[0] * torch.tensor([5.0, 2.0, 0.0]) / torch.tensor([6.0, 3.0, 1.0]))


def test_without_pessimism_it_is_value_iteration_on_the_recovered_rewards() -> None:
    mdp = process(3)
    counts = exact_counts(mdp, logistic_person(mdp, 0.9), 1e10)
    part = PessimisticChoices(horizon=HORIZON, discount=0.9, ridge=1e-6, pessimism=0.0, largest=1e3)
    base = TabularMDP(mdp.transition[:4, :, 4:8], mdp.mean_reward[:4], torch.eye(4)[0], 1.0, HORIZON)
    best = finite_values(base)[1]
    close(part.plan(None, None, counts)[:12].view(3, 4, 3), best, 1e-6)


def test_the_charge_is_one_over_the_root_of_the_count() -> None:
    """One state, rewards recovered as 0: Q = clip(-c / sqrt(n + lambda)) before the bound, by a loop."""
    counts = nothing_counted(1, 2)
    counts["visits"], counts["at"] = torch.tensor([[8.0, 8.0]]), torch.tensor([0])
    part = PessimisticChoices(horizon=1, pessimism=0.6, ridge=1.0)
    close(part.moves(counts)[1], torch.full((1, 2), 1 / 3))
    rewards = torch.tensor([[1.0, 0.0]])
    found = (rewards - 0.6 / 3).clamp(min=0)
    probe = type("Probe", (PessimisticChoices,), {"rewards": lambda self, counts: rewards})
    close(probe(horizon=1, pessimism=0.6, ridge=1.0).plan(None, None, counts), found)
    close(probe(horizon=1, pessimism=0.6, largest=0.5).plan(None, None, counts), torch.tensor([[0.5, 0.0]]))


def trained(size=300, **changes):
    mdp = process()
    world = RecordedEpisodes(mdp, logistic_person(mdp, 1.0), size)
    made = override(load("dcppo"), {"update.horizon": HORIZON, **changes})
    run = Run({"policy": Table(torch.zeros(mdp.states, 3))}, world, generate, 0)
    list(rounds(run, Program((Stage(made, 3),))))
    return run, mdp


def test_the_whole_method_counts_every_episode_once_and_is_greedy() -> None:
    run, _ = trained()
    counts = run.cells[COUNTED.name]
    assert float(counts["visits"].sum()) == 300 * HORIZON
    table = run.models["policy"].logits.detach().softmax(-1)
    assert bool(((table > 1 - 1e-12) | (table < 1e-12)).all())
    part = load("dcppo").update
    close(run.models["policy"].logits, greedy(replace(part, horizon=HORIZON).plan(None, None, counts)))


def test_episodes_that_epochs_come_back_to_are_no_new_evidence() -> None:
    """Else the charge for what was rarely seen would shrink with the number of rounds."""
    once, again = trained(120, **{"selection.count": 40})[0], trained(120)[0]  # 120 and 300 draws
    held, same = once.cells[COUNTED.name], again.cells[COUNTED.name]
    assert float(same["visits"].sum()) == 120 * HORIZON
    for name in ("visits", "reached"):
        close(same[name], held[name])


def test_rewards_come_closer_with_more_episodes() -> None:
    def error(size):
        mdp = process()
        counts = exact_counts(mdp, torch.zeros(mdp.states, 3), 0.0)
        rows: Batch = RecordedEpisodes(mdp, logistic_person(mdp, 1.0), size).write(torch.arange(size))
        from policyopt.update.optimistic import counted

        found = PessimisticChoices(horizon=HORIZON, ridge=0.1).rewards(counted(counts, rows))
        return float((found - mdp.mean_reward)[:12].abs().mean())

    assert error(3200) < 0.6 * error(400)


def test_policies_that_are_no_tables_are_refused() -> None:
    with pytest.raises(CompositionError, match="a table of logits"):
        load("dcppo").update(type("Ctx", (), {"models": {"policy": torch.nn.Linear(1, 1)}})(), None)
    with pytest.raises(CompositionError, match="ridge"):
        PessimisticChoices(ridge=0.0)
