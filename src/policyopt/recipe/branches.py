"""What a run whose stages have names leaves beside its last policy: each of them saved, measured and compared."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from policyopt.policies.hindsight import LandmarkModel
from policyopt.recipe.base import StageSection
from policyopt.recipe.build import Built, kept
from policyopt.report.branches import Branch, markdown, record
from policyopt.runtime.atomic import write_atomic
from policyopt.runtime.folder import RunFolder
from policyopt.seen import comparing


@contextmanager
def wearing(policy: nn.Module, other: nn.Module) -> Iterator[None]:
    """The policy with another's weights for a while."""
    own = copy.deepcopy(policy.state_dict())
    policy.load_state_dict(other.state_dict())
    try:
        yield
    finally:
        policy.load_state_dict(own)


class Branches:
    """The named policies of a finished run, in the order of their stages; those of stages that train no policy (only a
    reward model) are left out, as they are those of the stage before."""

    def __init__(self, built: Built, folder: RunFolder):
        self.built, self.folder = built, folder
        found = zip(built.recipe.stages, built.program.stages, strict=True)
        self.stages: dict[str, StageSection] = {
            said.name: said
            for said, stage in found
            if said.name and said.steps and any(term.trains == "policy" for term in stage.method.terms)
        }

    def __bool__(self) -> bool:
        """Whether there is something to compare: a single policy is not compared."""
        return len(self.stages) > 1

    def _model(self, name: str) -> nn.Module:
        last = self.built.recipe.stages[-1].name
        # A last stage may have ended with its budget, before its last round.
        return self.built.policy if name == last else self.built.run.models[kept(name)]

    def save(self) -> None:
        """models/NAME, each a folder that `policy.model` opens, and the reward models that the run trained."""
        for name in self.stages:
            with wearing(self.built.policy, self._model(name)):
                self.built.subject.save(self.folder.models / name)
        for name, model in self._judges().items():
            self.built.subject.save_reward(model, self.folder.models / name)

    def _judges(self) -> Mapping[str, Any]:
        """The reward and preference models that the run trained; places among codes are no such models."""
        run, given = self.built.run, self.built.recipe.supplied
        able = {name: model for name, model in run.models.items() if hasattr(model, "worth") or comparing(model)}
        return {name: m for name, m in able.items() if name not in given and not isinstance(m, LandmarkModel)}

    def report(self) -> dict[str, Any]:
        """report.md and results/branches.json. Empty if this kind of policy has nothing to compare by task."""
        found = self.folder.once("branches", self._measured)
        if found:
            write_atomic(self.folder.report, markdown(found, self.built.recipe.name))
        return found

    def _measured(self) -> Mapping[str, Any]:
        subject, judges = self.built.subject, self._judges()
        rewards = {name: model for name, model in judges.items() if hasattr(model, "worth")}
        branches, over = [], ""
        for name, stage in self.stages.items():
            start = self._model(stage.start_from) if stage.start_from else None
            scores, over = subject.judged(self._model(name), rewards, start)
            branches.append(Branch(name, stage.method, stage.start_from, {k: v.tolist() for k, v in scores.items()}))
        if not over:
            return {}
        return record(branches, over, subject.judged_rewards(judges), self.built.recipe.seed)
