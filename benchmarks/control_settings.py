"""What the control benchmarks run on every side: environments, budgets and PPO's settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """PPO on one environment; the network is two hidden layers of 64 tanh units for policy and value each, Adam with
    epsilon 1e-5, no annealing, no normalisation of observations or rewards, on all sides."""

    env: str
    count: int = 1  # environments
    horizon: int = 2048  # steps of each a round
    epochs: int = 10
    minibatch: int = 64
    learning_rate: float = 3e-4
    gamma: float = 0.99
    lam: float = 0.95
    clip: float = 0.2
    clip_norm: float = 0.5
    steps: int = 100_000  # budget of the comparison of returns

    @property
    def batch(self) -> int:
        return self.count * self.horizon


# CartPole and Pendulum: settings tuned for Stable-Baselines3 (its zoo); the others are its defaults.
SETTINGS = {
    "cartpole": Setting("CartPole-v1", 8, 256, 10, 64, 1e-3, 0.98, 0.8, steps=50_000),
    "pendulum": Setting("Pendulum-v1", 4, 1024, 10, 64, 1e-3, 0.9, 0.95, steps=100_000),
    "halfcheetah": Setting("HalfCheetah-v5"),
    "hopper": Setting("Hopper-v5"),
    "halfcheetah_8": Setting("HalfCheetah-v5", 8, 256),
}
