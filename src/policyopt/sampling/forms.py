"""Groups over equivalent forms of one task: the same question, put differently."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from policyopt.compose import Context, Part
from policyopt.sampling.samplers import Draw, Group, Judge, attempt
from policyopt.seen import asked
from policyopt.types import Batch


@dataclass(frozen=True)
class EquivalentForms(Part):
    """`size` attempts of every equivalent form of a task, all in the task's one group (EIS-GRPO, arXiv 2505.13346):
    what a policy does whatever the form is, answering by position for instance, then differs from the group's mean.

    The world says which tasks are the forms of one, `forms(task ids (N,)) -> (N, M)`; each is graded by its own truth.
    """

    size: int = 8
    temperature: float = 1.0

    needs = "a world that knows equivalent forms"

    def __post_init__(self) -> None:
        Group(self.size, self.temperature)

    def __call__(self, ctx: Context, draw: Draw, judge: Judge) -> Batch:
        tasks = draw()
        forms: Tensor = asked(ctx.world, "forms", "which tasks are forms of one")(tasks.id).to(tasks.id.device)
        made = ctx.world.tasks(forms.flatten().cpu()).to(tasks.id.device)
        made = made.with_rows({"group": tasks.row["group"].repeat_interleave(forms.shape[1])})
        return judge(attempt(ctx, made, self.size, self.temperature))
