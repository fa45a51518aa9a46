"""GRPO: group relative policy optimization (DeepSeekMath, arXiv 2402.03300, eq. 3).

A_i = (R_i - mean R) / std R ;   L = -mean_i mean_t min(r A, clip(r, 1 - e, 1 + e) A) + beta KL(pi || pi_ref)
"""

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Copy, Method, Role, Term
from policyopt.constraint.divergence import KLToReference
from policyopt.credit.groups import GroupStandardised
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import SequenceMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

grpo = Method(
    about=About(
        key="grpo",
        title="DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
        paper="arXiv 2402.03300",
        equation="eq. 3 (objective), section 4.1.2 (advantage)",
        mechanism="Several attempts at the same task are each other's baseline: a row's advantage is its reward, "
        "standardised within its group. PPO's clipped surrogate, averaged within a row and then over rows; no critic.",
        departures="The KL term has the gradient of KL(pi || reference); the paper differentiates the k3 estimator, "
        "whose gradient is that of the forward KL (constraint part K3Loss has that form). std divides by n - 1.",
        when_to_use="Verifiable rewards on tasks that are solved sometimes but not always.",
        nearest="ppo",
    ),
    selection=Selection(count=32),
    sampling=Group(size=8),
    reward=Verified(),
    credit=GroupStandardised(),
    objective=(Term("policy", ClippedSurrogate(0.2, 0.2), SequenceMean()),),
    constraint=(Term("kl", KLToReference(), SequenceMean(), weight=0.04),),
    update=GradientSteps({"policy": AdamW()}),
    roles={"old": Role(when="collected"), "reference": Role("reference", when="collected")},
    models={"reference": Copy()},
)

claim = Claim(
    statement="Standardising rewards within groups learns more at equal samples than reinforce with one moving average "
    "when tasks differ in the scale of their rewards.",
    source="arXiv 2402.03300, section 4.1 (group-relative advantages)",
    experiment="mixed_scales",
    observable="expected share of right symbols after training",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("grpo", {"selection.count": 8, "sampling.size": 8}),
    baseline=Arm("reinforce", {"selection.count": 8, "sampling.size": 8}),
    rounds=60,
    tuning=Tuning("update.learning_rate", (0.03, 0.1, 0.3)),
)
