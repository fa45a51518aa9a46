"""The watch over a run: invariants before every update, alarms after every round."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from policyopt.compose import Stage
from policyopt.run import Run, StageContext
from policyopt.runtime.alarms import History, alarms, forms, looked_at
from policyopt.runtime.invariants import Alarm, Before, InvariantError, Rules, breaches
from policyopt.types import Batch, Round

logger = logging.getLogger(__name__)

UNSCORED = 3  # rounds in a row without one reward, after which there is nothing to wait for

Told = Callable[[int, Alarm, Batch], None]
"""(round, what is wrong, the round's rows), once per kind and stage."""


class Watch:
    """Looks at a run and leaves it as it is. Its own state is in `state()`; equal runs are told equal alarms, also
    after a restart.

    given: by first round of a stage, the options that the user set. told: see `Told`; alarms are logged as well.
    """

    def __init__(
        self, rules: Rules | None = None, given: Mapping[int, Sequence[str]] | None = None, told: Told | None = None
    ):
        self.rules, self._given, self.told = rules or Rules(), given or {}, told
        self._history = History()
        self._prints: dict[str, int] = {}
        self._breached: list[str] = []
        self._unscored = 0  # the last rounds in a row in which no row could be scored

    def __call__(self, ctx: StageContext, kept: Batch) -> None:
        """Before the update. InvariantError, if the rules are to stop."""
        for found in breaches(Before(ctx, kept, self.rules, self._prints)):
            key = f"{ctx.step - ctx.stage_step}/{found.name}"
            if self.rules.policy == "stop":
                self._tell(ctx.step, found, kept)
                raise InvariantError(
                    f"round {ctx.step} was refused before its update: {found}. To go on in spite of it: "
                    "invariants.policy=warn"
                )
            if key not in self._breached:
                self._breached.append(key)
                self._tell(ctx.step, found, kept)

    def after(self, run: Run, stage: Stage, done: Round) -> None:
        """After a round, when the loop has moved on to the next. InvariantError, if the rules are to stop and nothing
        has been scored for some rounds."""
        self._rewarded(run.step - 1, stage, done)
        if not self.rules.alarms:
            return
        step = run.step - 1
        values = looked_at(done.metrics)
        policy: Any = run.models[stage.method.policy]
        if (step - stage.start) % self.rules.every == 0 and len(done.judged):
            values |= forms(policy, done.judged)
        self._history.add(stage.start, values)
        discrete = hasattr(policy, "taken") and not policy.taken(done.judged[:1]).is_floating_point()
        for found in alarms(self._history, discrete=discrete, given=self._given.get(stage.start, ())):
            self._history.told.append(found.name)
            self._tell(step, found, done.judged)

    def _rewarded(self, step: int, stage: Stage, done: Round) -> None:
        """A round of which no row could be scored trains nothing; several in a row are a broken verifier."""
        scored = done.judged.row["scored"]
        self._unscored = self._unscored + 1 if len(scored) and not bool(scored.any()) else 0
        if self._unscored < UNSCORED:
            return
        found = Alarm(
            "rewards can be had",
            f"not one of the {len(scored)} rows of this round could be scored, nor of the {UNSCORED - 1} rounds before",
            "the warnings above say what the verifier did; mend it (`policyopt check` tries it on a few rows)",
        )
        if self.rules.policy == "stop":
            self._tell(step, found, done.judged)
            raise InvariantError(
                f"round {step} was the last one: {found}. To go on in spite of it: invariants.policy=warn"
            )
        key = f"{stage.start}/{found.name}"
        if key not in self._breached:
            self._breached.append(key)
            self._tell(step, found, done.judged)

    def _tell(self, step: int, found: Alarm, rows: Batch) -> None:
        logger.warning("round %d: %s", step, found)
        if self.told is not None:
            self.told(step, found, rows)

    # -- for checkpoints -------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        history = dataclasses.asdict(self._history)
        return {
            "history": history,
            "prints": dict(self._prints),
            "breached": list(self._breached),
            "unscored": self._unscored,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._history = History(**state["history"])
        self._prints, self._breached = dict(state["prints"]), list(state["breached"])
        self._unscored = int(state.get("unscored", 0))  # not in checkpoints of earlier versions
