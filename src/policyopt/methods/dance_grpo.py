"""DanceGRPO: GRPO for diffusion and flow models (arXiv 2505.07818, eq. 5 to 8).

A_i^h = clip((R_i^h - mean_g R^h) / (std_g R^h + eps), -5, 5);   r_ik = exp(log p(z' | z) - log p_old(z' | z))
L = sum_h w_h mean_{i,k} max(-A_i^h r_ik, -A_i^h clip(r_ik, 1 - c, 1 + c)), k a random share of the steps
"""

from collections.abc import Mapping
from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Chain, Copy, Method, Role, Term
from policyopt.constraint.divergence import ExactKL
from policyopt.credit.groups import GroupStandardised
from policyopt.credit.heads import PerHead
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.reward.heads import HeadRewards
from policyopt.reward.parts import Verified
from policyopt.sampling.branches import Branched
from policyopt.selection.extremes import BestAndWorst
from policyopt.selection.steps import RandomSteps
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

dance_grpo = Method(
    about=About(
        key="dance_grpo",
        title="DanceGRPO: Unleashing GRPO on Visual Generation",
        paper="arXiv 2505.07818",
        equation="eq. 5 (SDE of a flow), eq. 6 to 8 (objective, advantages, several rewards)",
        mechanism="A flow's ODE becomes an SDE with the same marginals, so its steps have densities. All samples of a "
        "prompt begin with the same noise, only a random part of the steps is trained, and the advantages of several "
        "rewards are added, not the rewards. No KL term.",
        departures="The clip range belongs to the density averaged over dimensions (1e-4 for an image's latent, 0.1 "
        "for the plane). Which of several rewards there are is the world's: `dance_grpo.with_heads` adds a term per "
        "reward and, if asked, trains on the best and worst of a group only.",
        when_to_use="A diffusion or flow model and one or several rewards of its samples.",
        seed=239,
        family="D",
        nearest="ddpo",
        policies=("denoising",),
    ),
    selection=Selection(count=8, rows=RandomSteps(0.6)),
    sampling=Branched(stem=1, size=12),
    reward=Verified(),
    credit=GroupStandardised(epsilon=1e-8, bound=5.0),
    objective=(Term("policy", ClippedSurrogate(1e-4, 1e-4), TokenMean()),),
    update=GradientSteps({"policy": AdamW(learning_rate=1e-5, weight_decay=1e-4)}, minibatches=4),
    roles={"old": Role(when="collected")},
)

anchored = replace(
    dance_grpo,
    about=replace(dance_grpo.about, key="dance_grpo_anchored", equation="eq. 6 to 8, and an exact KL to the base"),
    constraint=(Term("kl", ExactKL(), TokenMean(), weight=0.05),),
    roles={
        "policy": Role(grad=True, full=True),
        "old": Role(when="collected"),
        "reference": Role("reference", full=True),
    },
    models={"reference": Copy()},
)
"""With a charge for leaving the model as it was: KL(pi || base) of the trained steps, exact, averaged over dimensions
where the densities are."""


def with_heads(weights: Mapping[str, float], keep: int | None = None, clip: float = 1e-4) -> Method:
    """One term per reward of the world (`grade_heads`), with its weight. keep: train on so many rows of a group, the
    best and the worst by the weighted sum of advantages; None: all."""
    names = tuple(weights)
    columns = {f"advantage:{name}": weight for name, weight in weights.items()}
    rule = RandomSteps(0.6) if keep is None else Chain((BestAndWorst(keep, columns), RandomSteps(0.6)))
    terms = [
        Term(name, ClippedSurrogate(clip, clip, advantage=f"advantage:{name}"), TokenMean(), weight=weight)
        for name, weight in weights.items()
    ]
    return replace(
        dance_grpo,
        selection=replace(dance_grpo.selection, rows=rule),
        reward=HeadRewards(names),
        credit=PerHead(names),
        objective=tuple(terms),
    )


two_heads = with_heads({"first": 1.0, "second": 1.0}, clip=0.1)
"""For worlds with the rewards "first" and "second"."""

claim = Claim(
    statement="Two rewards of very different scale are both raised if their advantages are added, and not if the "
    "rewards are.",
    source="arXiv 2505.07818, section 3.2, eq. 8; specification 239",
    experiment="two_rewards",
    observable="smaller of the two mean rewards, each on its own scale of 0 to 1, after training",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=Arm("dance_grpo:two_heads", label="advantages added"),
    baseline=Arm("dance_grpo", {"objective.clip_low": 0.1, "objective.clip_high": 0.1}, label="rewards added"),
    rounds=60,
    tuning=Tuning("update.learning_rate", (3e-4, 1e-3)),
    scope="A rectified flow in the plane; clip range 0.1 for 2 dimensions. The notes say how far the tuned model is "
    "from the base, as KL(pi || base) along the chains that it draws, over stochastic steps.",
)
