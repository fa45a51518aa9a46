"""What the run's models say of a batch: scores by role, lazily computed, cached, shared by all terms."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from policyopt.compose import CompositionError, Context, Role, Seen
from policyopt.ops.masked import select
from policyopt.ops.matching import Matching, Renoised
from policyopt.types import Batch, Distribution, Scores, Source

POLICY_ROLE = Role("policy", grad=True)
MEASURED = 8  # rows that are scored, at least, before the sampler's log-probabilities are trusted


class SeenBatch:
    """Implements `compose.Seen` for one micro-batch (or, inside `torch.no_grad`, for a whole optimiser step)."""

    def __init__(self, ctx: Context, batch: Batch, cache: dict[tuple[str, bool], Any] | None = None):
        self.ctx, self.batch = ctx, batch
        self._cache: dict[tuple[str, bool], Any] = {} if cache is None else cache

    def having(self, batch: Batch) -> SeenBatch:
        """The same scores (shared cache) beside the same rows with more columns."""
        return SeenBatch(self.ctx, batch, self._cache)

    def __getitem__(self, role: str) -> Scores:
        if role == "behaviour" or self._declared(role).when == "recorded":
            return Scores(self.batch.step["behaviour"])
        if role in self.batch.scores:
            return self.batch.scores[role]
        return self._once(role, lambda: self.compute(role), grad=self._declared(role).grad)

    def _once(self, key: str, make: Callable[[], Any], *, grad: bool = True) -> Any:
        """Computed once; but what was made without gradient is not kept for those who need one."""
        held = (key, grad and torch.is_grad_enabled())
        if held not in self._cache and (key, True) in self._cache:
            held = (key, True)
        if held not in self._cache:
            self._cache[held] = make()
        return self._cache[held]

    def compute(self, role: str) -> Scores:
        """Score the batch under a role now."""
        wanted = self._declared(role)
        with contextlib.nullcontext() if wanted.grad else torch.no_grad():
            model: Any = self.ctx.models[wanted.model]
            scores = model.score(self.batch, wanted.context, full=wanted.full)
        if wanted.grad and torch.is_grad_enabled() and not scores.exact:
            _check_trainable(wanted.model, scores, self.batch)
        return scores

    def at(self, role: str, *, following: bool = False) -> Distribution:
        """Distributions (B, T) of a role's model at the state before each step, or at the state that follows it;
        with gradient if the role has one."""
        wanted = self._declared(role)
        model = self._able(wanted.model, "at", "distributions at the states that follow")

        def make() -> Distribution:
            with contextlib.nullcontext() if wanted.grad else torch.no_grad():
                return model.at(self.batch, following=following)

        return self._once(f"{role} at {following}", make, grad=wanted.grad)

    def taken(self, model: str = "policy") -> Tensor:
        """(B, T, ...) the steps that were taken, as the model's density is over them."""
        return self._able(model, "taken", "the steps that were taken").taken(self.batch)

    def q(self, critic: str, steps: Tensor | None = None, *, following: bool = False) -> Tensor:
        """(E, B, T) with gradient (to the steps as well); see `compose.ActionValueModel`."""
        return self._able(critic, "q", "action values").q(self.batch, steps, following=following)

    def q_all(self, critic: str, *, following: bool = False) -> Tensor:
        """(E, B, T, A) with gradient: the values of every choice."""
        return self._able(critic, "q_all", "values of every choice").q_all(self.batch, following=following)

    def scalar(self, model: str) -> Tensor:
        """() with gradient: the number that a `Scalar` model holds."""
        return self._able(model, "scalar", "a number").scalar()

    def worth(self, model: str) -> Tensor:
        """(B,) with gradient: what a reward model says that each whole row is worth."""
        able = self._able(model, "worth", "rewards of whole rows")
        return self._once(f"worth by {model}", lambda: able.worth(self.batch))

    def compare(self, model: str, first: Tensor, second: Tensor) -> Tensor:
        """(n,) with gradient: the log-odds that rows `first` (n,) are preferred to rows `second`."""
        return self._able(model, "compare", "preferences between rows").compare(self.batch, first, second)

    def noise(self, purpose: str, points: int = 1) -> dict[str, Tensor]:
        """Row columns that say how `match` noises the rows' samples again; for `Loss.plan`."""
        return self._able("policy", "noise", "a forward process").noise(self.batch, self.rng(purpose), points)

    def match(self, role: str) -> Matching:
        """What a role's model says of the rows' samples, noised as planned; with gradient if the role has one."""
        wanted = self._declared(role)
        model = self._able(wanted.model, "match", "regression on a forward process")
        with contextlib.nullcontext() if wanted.grad else torch.no_grad():
            return model.match(self.batch)

    def renoised(self, model: str, steps: Tensor, share: Tensor, noise: Tensor) -> Renoised:
        """What a model of steps says of the noise in them, with gradient; see `compose.protocols.NoiseModel`."""
        return self._able(model, "renoised", "the noise in steps").renoised(self.batch, steps, share, noise)

    def rng(self, purpose: str) -> torch.Generator:
        """For numbers drawn once per optimiser step, in `Loss.plan`."""
        return self.ctx.rng(purpose)

    def _able(self, model: str, ability: str, what: str) -> Any:
        found: Any = self.ctx.models[model]
        if not hasattr(found, ability):
            raise CompositionError(
                f"model {model!r} ({type(found).__name__}) can not give {what}, which this method needs; use a kind "
                "of policy that can, or another method"
            )
        return found

    def value(self, critic: str, *, following: bool = False) -> Tensor:
        """(B, T) with gradient: the value before each step, or of the state that follows it."""

        def make() -> Tensor:
            model: Any = self.ctx.models[critic]
            # A critic that can leaves out the value after the last step, which most losses do not read.
            before = None if following else getattr(model, "before", None)
            if before is not None:
                return before(self.batch)
            whole = model.value(self.batch)
            return whole[:, 1:] if following else whole[:, :-1]

        return self._once(f"value of {critic} {following}", make)

    def _declared(self, role: str) -> Role:
        roles = self.ctx.stage.roles
        if role in roles:
            return roles[role]
        if role == "policy":
            return POLICY_ROLE
        raise CompositionError(f"no role {role!r} is declared; this method has {sorted(roles)}")


def _check_trainable(model: str, scores: Scores, batch: Batch) -> None:
    """CompositionError: log-probabilities without gradient, or of no distribution, would train nothing and say so
    nowhere."""
    if scores.logp.requires_grad and not bool(scores.logp[batch.trained].isnan().any()):
        return
    lacks = "no density (deterministic)" if scores.logp.requires_grad else "no gradient (action values)"
    raise CompositionError(
        f"this method trains the log-probabilities of {model!r}, which have {lacks}; use another head, or a method "
        "that reads none of them: td3, td3_bc or bc_squared for head=deterministic, dqn for head=q"
    )


def asked(world: Any, ability: str, what: str) -> Any:
    """Something that a world can do beyond `compose.World`, or an error that says what is missing."""
    found = getattr(world, ability, None)
    if found is None:
        raise CompositionError(
            f"this method asks the world {what} ({ability!r}), which {type(world).__name__} can not say; use a world "
            "that can, or another method"
        )
    return found


def rewinding(world: Any) -> Callable[[Batch, Tensor], Batch]:
    """What takes rows back to their first steps (B,)."""
    return asked(world, "rewind", "to go back to a prefix")


def graded(ctx: Context, batch: Batch) -> Tensor:
    """(B,) the world's grade of every row, nan where it has none; summed where every step is paid."""
    grade = ctx.world.grade(batch)
    return select(batch.valid, grade).sum(1) if grade.dim() == 2 else grade


def preferred(ctx: Context, model: str, batch: Batch, first: Tensor, second: Tensor) -> Tensor:
    """(n,) how far a model of the run prefers rows `first` (n,) of a batch to rows `second` of the same tasks, in 0..1,
    without gradient; nan where it has no answer. A trained model gives `compare`, a judge `prefers(first, second)`."""
    able: Any = ctx.models[model]
    if not comparing(able):
        raise CompositionError(
            f"model {model!r} ({type(able).__name__}) can not say which of two rows is better; train one (method "
            "preference_model) or give a judge of pairs (judges.NAME with ask: pair)"
        )
    with torch.no_grad():
        if hasattr(able, "compare"):
            return able.compare(batch, first, second).sigmoid()
        return able.prefers(batch[first], batch[second])


def preference(ctx: Context, judge: str | None, batch: Batch, first: Tensor, second: Tensor) -> Tensor:
    """(n,) the probability that each first row is preferred: as a model of the run says (1/2 where it does not answer),
    or, without one, the world, `prefer(first, second) -> (n,)`."""
    if judge is not None:
        return preferred(ctx, judge, batch, first, second).nan_to_num(0.5)
    if not len(first):
        return torch.zeros(0, device=first.device)
    return asked(ctx.world, "prefer", "which of two rows is preferred")(batch[first], batch[second])


def verdict(ctx: Context, model: str, first: Batch, second: Batch, own: Batch | None = None) -> Tensor:
    """(n,) the probability that a generative judge gives to the verdict for each first row, of the two verdicts that
    the world puts behind its question, `verdicts(first, second, own or None)` -> rows that say that the first is
    better, and rows that say that the second is. Without gradient."""
    verdicts = asked(ctx.world, "verdicts", "to put two rows before a judge")
    judge: Any = ctx.models[model]
    with torch.no_grad():
        one, other = (
            torch.where(rows.own, judge.score(rows, None, full=False).logp, 0.0).sum(1)
            for rows in verdicts(first, second, own)
        )
    return torch.sigmoid(one - other)


def comparing(model: Any) -> bool:
    """Whether a model says which of two rows is better."""
    return hasattr(model, "compare") or hasattr(model, "prefers")


def collect_roles(ctx: Context, batch: Batch) -> Batch:
    """Scores that must be taken before the update changes the policy."""
    bound = getattr(ctx.stage.update, "trust_sampler", None)
    with torch.no_grad():
        taken = {}
        for name, role in ctx.stage.roles.items():
            if role.when != "collected" or name in batch.scores:
                continue
            if bound is not None and sampled_by(ctx, role, batch) and _reported(ctx, name, batch, bound):
                taken[name] = Scores(batch.step["behaviour"])
            else:
                taken[name] = _said(ctx, name, role, batch)
    return batch.with_scores(taken)


def _said(ctx: Context, name: str, role: Role, batch: Batch) -> Scores:
    def compute(rows: Batch) -> Scores:
        return _kept(SeenBatch(ctx, rows).compute(name).detach(), full=role.full)

    # Whole distributions are larger than what it takes to compute them again; a model that all processes ask together
    # says all of its rows to each.
    if ctx.trainers is None or role.full or hasattr(ctx.models[role.model], "together"):
        return compute(batch)
    return ctx.trainers.rows(batch, compute)


def sampled_by(ctx: Context, role: Role, batch: Batch) -> bool:
    """Whether a role is of the policy as it is now, and it sampled every trained step."""
    own = role.model in ("policy", ctx.stage.policy) and role.context is None and not role.full
    if not own or not bool((batch.row["source"] == Source.POLICY).all()):
        return False
    return bool((batch.step["version"][batch.trained] == ctx.updates).all())


def _reported(ctx: Context, name: str, batch: Batch, bound: float) -> bool:
    """Whether a sample of the rows scores within a bound of what the sampler reported. If so, it stands for all of them
    in the metrics."""
    count = min(len(batch), max(MEASURED, len(batch) // 16))
    some = batch[torch.linspace(0, len(batch) - 1, count, device=batch.device).long()]
    scores = SeenBatch(ctx, some).compute(name)
    gap, trained = (scores.logp - some.step["behaviour"]).abs(), some.trained
    if not bool(trained.any()) or not float(gap[trained].max()) <= bound:  # nan is not within it
        return False
    ctx.meter.mean("sampler_mismatch", gap, trained)
    if scores.entropy is not None:
        ctx.meter.mean("entropy", scores.entropy, trained)
    return True


def distribution(seen: Seen, role: str) -> Distribution:
    """What a role's scores hold of every choice. CompositionError: the role does not ask for it."""
    found = seen[role].dist
    if found is None:
        raise CompositionError(
            f"this loss needs the whole distribution of {role!r}; declare roles={{{role!r}: "
            f"Role({'grad=True, ' if role == 'policy' else ''}full=True)}}, or use a loss that needs log-probabilities "
            "of the steps taken only"
        )
    return found


def _kept(scores: Scores, *, full: bool) -> Scores:
    """With the entropy, for the metrics; whole distributions only where a role asks for them."""
    entropy = scores.entropy
    if entropy is None and scores.dist is not None:
        entropy = scores.dist.entropy()
    return replace(scores, entropy=entropy, dist=scores.dist if full else None)
