"""DQN: what it reduces to, its fixed points on a process whose optimum is known, and its periods."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from policyopt.methods import load
from policyopt.options import override
from policyopt.policies.tabular import TableQ
from policyopt.sampling.exploration import Annealed
from policyopt.types import Finish
from policyopt.update.following import Refresh
from policyopt.worlds import oracles
from references_values import every_transition, forks, iterated
from support import close, context, numbers

pytestmark = pytest.mark.usefixtures("float64")

MDP = forks()


def chased(key: str, every: int = 1, huber: float | None = None) -> Any:
    made = override(load(key), {"objective.huber": huber, "objective.gamma": MDP.gamma})
    hooks = (Refresh("target", every=every),)
    return replace(made, update=replace(made.update, after_step=hooks))


def table() -> TableQ:
    return TableQ(numbers(1, MDP.states, MDP.actions, seed=3))


@pytest.mark.parametrize("key", ["dqn", "dqn:double_dqn"])
def test_its_fixed_point_is_value_iterations(key: str) -> None:
    """Whole backups over all transitions with a target renewed every time are value iteration."""
    batch = every_transition(MDP)
    run = iterated(chased(key), {"policy": table()}, batch, 250, {"policy": len(batch) / 2})
    _, expected, _ = oracles.optimum(MDP)
    close(run.models["policy"].values[0][~MDP.ends], expected[~MDP.ends], atol=1e-8)


def test_one_backup_by_hand() -> None:
    """One step over all transitions sets Q to r + gamma E[max Q'], with nothing after the end."""
    batch, before = every_transition(MDP), table()
    q = before.values.detach()[0].clone()
    run = iterated(chased("dqn"), {"policy": before}, batch, 1, {"policy": len(batch) / 2})
    worth = torch.where(MDP.ends, 0.0, q.max(1).values)
    expected = MDP.mean_reward + MDP.gamma * MDP.transition @ worth
    close(run.models["policy"].values[0][~MDP.ends], expected[~MDP.ends])


def test_double_takes_the_choice_of_one_and_the_value_of_the_other() -> None:
    """The second of two backups, its target still the initial table."""
    batch = every_transition(MDP)
    first = table().values.detach()[0]
    once = oracle_backup(first.max(1).values)
    plain = iterated(chased("dqn", every=99), {"policy": table()}, batch, 2, {"policy": len(batch) / 2})
    close(plain.models["policy"].values[0][~MDP.ends], once[~MDP.ends])
    double = iterated(chased("dqn:double_dqn", every=99), {"policy": table()}, batch, 2, {"policy": len(batch) / 2})
    # Terminal states keep their first values, which only the choice there reads and nothing bootstraps from.
    begun = oracle_backup(first.gather(1, first.argmax(1, keepdim=True))[:, 0])
    chosen = torch.where(MDP.ends[:, None], first, begun).argmax(1, keepdim=True)
    expected = oracle_backup(first.gather(1, chosen)[:, 0])
    close(double.models["policy"].values[0][~MDP.ends], expected[~MDP.ends])
    assert float((expected - once).abs().max()) > 1e-2


def oracle_backup(worth: Tensor) -> Tensor:
    """r + gamma E[worth of the state that follows], nothing after an end."""
    return MDP.mean_reward + MDP.gamma * MDP.transition @ torch.where(MDP.ends, 0.0, worth)


def test_a_limit_does_not_end_an_episode() -> None:
    """All transitions cut instead of running: the same fixed point; all stopped: the rewards alone (trap 51)."""
    batch = every_transition(MDP)
    finish = batch.row["finish"]
    cut = batch.with_rows({"finish": torch.where(finish == Finish.STOPPED, finish, int(Finish.TRUNCATED))})
    rates = {"policy": len(batch) / 2}
    one, other = (iterated(chased("dqn"), {"policy": table()}, rows, 30, rates) for rows in (batch, cut))
    close(one.models["policy"].values, other.models["policy"].values)
    stopped = batch.with_rows({"finish": torch.full_like(finish, int(Finish.STOPPED))})
    last = iterated(chased("dqn"), {"policy": table()}, stopped, 1, rates).models["policy"]
    close(last.values[0][~MDP.ends], MDP.mean_reward[~MDP.ends])


def test_trap_55_the_target_stands_still_between_its_renewals() -> None:
    """Renewed at updates 3 and 6: after 7 updates it is the table of update 6, after 5 that of update 3."""
    batch = every_transition(MDP)

    def after(updates: int, every: int) -> Any:
        return iterated(chased("dqn", every=every), {"policy": table()}, batch, updates, {"policy": 2.0}).models

    close(after(2, 3)["target"].values, table().values)
    close(after(5, 3)["target"].values, after(3, 3)["policy"].values)
    close(after(7, 3)["target"].values, after(6, 3)["policy"].values)
    close(after(7, 1)["target"].values, after(7, 1)["policy"].values)


def test_large_errors_move_it_as_much_as_errors_of_one() -> None:
    """huber 1: no transition's gradient is above 1 / transitions."""
    batch = every_transition(MDP)
    batch = batch.with_steps({"reward": 100 * batch.step["reward"]})
    before = table()
    run = iterated(chased("dqn", huber=1.0), {"policy": before}, batch, 1, {"policy": len(batch) / 2})
    moved = (run.models["policy"].values - table().values).detach().abs()[0][~MDP.ends]
    assert float(moved.max()) <= 1.0 + 1e-12
    assert float(moved.min()) > 0.5


def test_exploration_falls_over_the_first_half() -> None:
    made = load("dqn")
    assert made.sampling.exploration == Annealed(1.0, 0.05, 0.5)
    ctx = context(made, {"policy": table()})
    found = []
    for step in (0, 2, 4, 5, 9):
        ctx.run.step = step  # of ten
        found.append(made.sampling.exploration.level(ctx))
    close(torch.tensor(found), [1.0, 0.62, 0.24, 0.05, 0.05])


def test_published_settings() -> None:
    made = load("dqn")
    assert (made.objective[0].loss.huber, made.objective[0].loss.gamma) == (1.0, 0.99)
    assert made.objective[0].loss.critic == "policy"
    assert load("dqn:double_dqn").objective[0].loss.bootstrap.chooser == "policy"
