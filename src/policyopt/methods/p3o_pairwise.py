"""P3O: pairwise proximal policy optimization (arXiv 2310.00212), with the joint clip and, as `p3o_separate`, with a
clip of each answer.

rr_k = R(y_k) - beta sum_t (log pi_old - log pi_ref),  w_k = prod_t pi / pi_old,  D = rr_1 - rr_2,  u = w_1 / w_2
joint:     L = -sg(w_1 w_2) min(log(u) D, clip(log u, -e, e) D) / 2
separate:  L = -(min(w_1 D, clip(w_1, 1 - e, 1 + e) D) + min(-w_2 D, -clip(w_2, 1 - e, 1 + e) D)) / 2
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Nothing, Term
from policyopt.methods.rloo import rloo
from policyopt.objective.implicit import JointPairSurrogate, compared_rows
from policyopt.sampling.samplers import Group
from policyopt.update.averaging import RowMean

p3o_separate = replace(
    rloo,
    about=About(
        key="p3o_separate",
        title="Pairwise Proximal Policy Optimization: Harnessing Relative Feedback for LLM Alignment",
        paper="arXiv 2310.00212",
        equation="section 4 (pairwise policy gradient; version 1, separate clip)",
        mechanism="Two answers a task; only the difference of their regularised rewards enters, so a constant of the "
        "task changes nothing and no critic is needed. Separate clipping is rloo's surrogate on groups of two.",
        departures="Version 1 lacks the other answer's importance weight, as in the paper's surrogate. No official "
        "code was found; the form of both surrogates is read from the text.",
        when_to_use="Reward models that are trained on comparisons, whose level means nothing.",
        seed=78,
        family="A1",
        nearest="rloo",
    ),
    sampling=Group(size=2),
)

p3o_pairwise = replace(
    p3o_separate,
    about=replace(
        p3o_separate.about,
        key="p3o_pairwise",
        equation="section 4 (pairwise policy gradient; version 2, joint clip)",
        mechanism="Two answers a task; only the difference of their regularised rewards enters, so a constant of the "
        "task changes nothing and no critic is needed. Both importance ratios weigh the pair; a clip bounds how far "
        "the pair is pushed apart.",
        departures="No official code was found; the form of the surrogate is read from the text. Groups of more than "
        "two rows compare every pair.",
    ),
    credit=Nothing(),
    objective=(Term("policy", JointPairSurrogate(0.2), RowMean(), mask=compared_rows, couples=("group",)),),
)

_WORLD = {"selection.count": 32, "update.minibatches": 1, "update.epochs": 4}

claim = Claim(
    statement="Where every prompt adds its own constant to the reward, P3O learns more from as many rows than PPO "
    "with a critic.",
    source="arXiv 2310.00212, section 4.2 (invariance to shifts by prompt); specification 78",
    experiment="offset_prompts",
    observable="share of the attainable expected reward after training, exact",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("p3o_pairwise", {**_WORLD, "reward.reference_penalty.beta": 1e-6}),
    baseline=Arm("ppo", {**_WORLD, "selection.count": 64, "constraint": ()}),
    rounds=40,
    tuning=Tuning("update.optimizers.policy.learning_rate", (0.1, 0.3)),
    scope="Tables; a critic per prompt, trained at the same rate as in ppo's defaults. The KL to the reference is all "
    "but off in both arms, so that the distance to the best reward is what is compared.",
)
