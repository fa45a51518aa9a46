"""TD3+BC: between cloning and TD3, whatever the scale of rewards."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from policyopt.methods import load
from policyopt.options import override
from references_values import Bowl, Pointed, iterated, places, transitions
from support import close

pytestmark = pytest.mark.usefixtures("float64")


def models(scale: float = 1.0) -> dict[str, Any]:
    critic = Bowl(3, squashed=False)
    for parameter in critic.parameters():
        parameter.data *= scale
    return {"policy": Pointed(1), "critic": critic}


def moved(made: Any, these: dict[str, Any] | None = None) -> torch.Tensor:
    """What one step of rate 1 changes of the policy, the critic held."""
    made = replace(made, update=replace(made.update, every={}))
    run = iterated(made, these or models(), transitions(), 1, {"critic": 0.0, "policy": 1.0})
    return (run.models["policy"].mean - Pointed(1).mean).detach()


def with_alpha(alpha: float) -> Any:
    made = load("td3_bc")
    term = made.objective[1]
    return replace(made, objective=(made.objective[0], replace(term, weight=replace(term.weight, alpha=alpha))))


def test_small_alpha_is_behaviour_cloning() -> None:
    close(moved(with_alpha(1e-12)), moved(load("bc:bc_squared"), {"policy": Pointed(1)}), atol=1e-10)


def test_without_cloning_it_is_td3_on_values_of_size_one() -> None:
    """The constraint taken out: TD3's step times alpha / mean |Q|."""
    batch, these = transitions(), models()
    free = replace(load("td3_bc"), constraint=())
    mode = these["policy"].at(batch).mode()
    size = these["critic"].q(batch, mode)[0][batch.trained].abs().mean().detach()
    plain = moved(override(load("td3"), {}))
    close(moved(free), 2.5 / size * plain)
    both = moved(load("td3_bc"))
    close(both, moved(free) + moved(load("bc:bc_squared"), {"policy": Pointed(1)}))


def test_the_scale_of_rewards_changes_nothing() -> None:
    close(moved(load("td3_bc"), models(100.0)), moved(load("td3_bc")))


def test_by_hand() -> None:
    """dL/dmu = -lambda dQ_1/da + 2 (mu - a) / D at every trained step, through tanh."""
    batch, these = transitions(), models()
    mean, critic = these["policy"].mean.detach(), these["critic"]
    sizes, slopes = [], []
    for b, t, s, _, _ in places(batch):
        y, a = mean[s].tanh(), batch.step["_action"][b, t]
        q = critic.c[0, s] + (critic.w[0, s] * y - critic.k[0, s] * y**2).sum()
        sizes.append(float(q.detach().abs()))
        slopes.append((s, critic.w[0, s].detach() - 2 * critic.k[0, s].detach() * y, y - a, 1 - y**2))
    lam, n = 2.5 * len(sizes) / sum(sizes), len(sizes)
    expected = torch.zeros_like(mean)
    for s, slope, gap, through in slopes:
        expected[s] += (lam * slope - gap) * through / n
    close(moved(load("td3_bc")), expected)


def test_published_settings() -> None:
    made = load("td3_bc")
    assert made.objective[1].weight.alpha == 2.5
    assert (made.update.every, made.objective[0]) == ({"policy": 2}, load("td3").objective[0])
