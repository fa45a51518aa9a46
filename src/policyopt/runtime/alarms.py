"""What does not look right over rounds: entropy that collapses, answers that grow, rewards that are gamed, options that
never act. Alarms are told once a stage and never stop a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from policyopt.ops.groups import group_mean
from policyopt.ops.sequences import total_reward
from policyopt.runtime.invariants import Alarm
from policyopt.types import Batch

WINDOW = 5  # rounds that are averaged, of the stage's beginning and of now
COLLAPSED = 0.05  # of the first entropy
LONGER = 2.0  # times the first length
CUT = 0.5  # of the answers
RISEN = 0.05  # of the reward's first size, at least
ALIKE = 0.25  # of the first share of different answers
PAID = 0.95  # correlation within groups
IDLE = 50  # rounds without a single clipped step


@dataclass
class History:
    """What a stage measured: the first and the last values of each metric, what was told already. JSON-like data, so
    that it is checkpointed as it is."""

    stage: int = -1
    rounds: int = 0
    first: dict[str, list[float]] = field(default_factory=dict)
    last: dict[str, list[float]] = field(default_factory=dict)
    clipped: dict[str, float] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def add(self, stage: int, values: Mapping[str, float]) -> None:
        if stage != self.stage:
            self.stage, self.rounds, self.told = stage, 0, []
            self.first, self.last, self.clipped = {}, {}, {}
        self.rounds += 1
        for name, value in values.items():
            begun = self.first.setdefault(name, [])
            if len(begun) < WINDOW:
                begun.append(value)
            self.last[name] = [*self.last.get(name, [])[-(WINDOW - 1) :], value]
            if name.endswith("/clipped"):
                self.clipped[name] = self.clipped.get(name, 0.0) + value

    def then_and_now(self, name: str) -> tuple[float, float] | None:
        """Means of the first and of the last rounds; None before there are two windows."""
        begun, now = self.first.get(name, []), self.last.get(name, [])
        if len(begun) < WINDOW or len(now) < WINDOW or self.rounds < 2 * WINDOW:
            return None
        return sum(begun) / len(begun), sum(now) / len(now)

    @property
    def risen(self) -> bool | None:
        """Whether the reward is clearly above what it was; None if there is no reward."""
        found = self.then_and_now("reward")
        return None if found is None else found[1] > found[0] + max(1e-3, RISEN * abs(found[0]))


def looked_at(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that alarms read."""
    names = ("entropy", "length", "truncated", "reward")
    return {name: value for name, value in metrics.items() if name in names or name.endswith("/clipped")}


def forms(policy: Any, rows: Batch) -> dict[str, float]:
    """Of a round's rows: how many different answers there are per task ("different"), and the correlation of reward
    and length within groups ("paid by length", where both vary)."""
    found = {}
    if hasattr(policy, "taken") and rows.steps:
        steps = policy.taken(rows)
        if steps.dim() == 2 and not steps.is_floating_point():
            answers = torch.where(rows.own, steps, -1).unique(dim=0)
            found["different"] = len(answers) / len(rows.row["task"].unique())
    rho = _within(total_reward(rows).double(), rows.lengths.double(), rows.row["group"], rows.row["scored"])
    return found if rho is None else {**found, "paid by length": rho}


def _within(x: torch.Tensor, y: torch.Tensor, ids: torch.Tensor, valid: torch.Tensor) -> float | None:
    x, y = ((column - group_mean(column, ids, valid))[valid] for column in (x, y))
    size = float((x.square().sum() * y.square().sum()).sqrt())
    return float((x * y).sum()) / size if size > 1e-9 else None


# -- the alarms --------------------------------------------------------------------------------------------------------
def alarms(history: History, *, discrete: bool, given: Sequence[str]) -> Iterator[Alarm]:
    """Everything that looks wrong now and was not told in this stage."""
    # Differential entropies may be negative, and lengths of episodes are the world's: these three are of texts.
    found = [asked(history) for asked in (_collapse, _explosion, _gamed)] if discrete else []
    yield from (one for one in (*found, _dead(history, given)) if one is not None and one.name not in history.told)


def _collapse(history: History) -> Alarm | None:
    found = history.then_and_now("entropy")
    if found is None or found[1] >= COLLAPSED * found[0] or history.risen is not False:
        return None
    return Alarm(
        "entropy collapse",
        f"entropy fell from {found[0]:.3g} to {found[1]:.3g} while the reward did not rise",
        "a lower learning rate, an entropy bonus or target, a wider upper clip (clip_high), fewer updates a round",
    )


def _explosion(history: History) -> Alarm | None:
    length, cut = history.then_and_now("length"), history.then_and_now("truncated")
    if length is None or history.risen is not False:
        return None
    grown = length[1] >= LONGER * max(1.0, length[0])
    stopped = cut is not None and cut[1] >= CUT and cut[0] < CUT / 2
    if not (grown or stopped):
        return None
    share = "" if cut is None else f", cut off from {cut[0]:.0%} to {cut[1]:.0%}"
    return Alarm(
        "length explosion",
        f"answers grew from {length[0]:.3g} to {length[1]:.3g} steps{share}, while the reward did not rise",
        "penalise overlong answers, average over tokens instead of rows, or look whether EOS is trained",
    )


def _gamed(history: History) -> Alarm | None:
    if not history.risen:
        return None
    alike, paid = history.then_and_now("different"), history.then_and_now("paid by length")
    if alike is not None and alike[1] < ALIKE * alike[0] and alike[1] < 0.5:
        value = f"the reward rises while different answers per task fell from {alike[0]:.2g} to {alike[1]:.2g}"
    elif paid is not None and abs(paid[1]) >= PAID:
        value = f"the reward rises and within groups it is paid by length (correlation {paid[1]:+.2f})"
    else:
        return None
    return Alarm("reward hacking", value, "read the saved samples: what is paid may not be what was meant")


def _dead(history: History, given: Sequence[str]) -> Alarm | None:
    set_ = [key for key in given if key.rsplit(".", 1)[-1] in ("clip_low", "clip_high", "dual_clip")]
    never = [name for name, total in history.clipped.items() if total == 0.0]
    if not set_ or len(never) < len(history.clipped) or not never or history.rounds < IDLE:
        return None
    return Alarm(
        "dead option",
        f"{', '.join(set_)} did nothing in {history.rounds} rounds: not one step was clipped",
        "remove it, or set update.epochs or update.minibatches above 1",
    )
