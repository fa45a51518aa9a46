"""AlignDistil: token-level alignment as adaptive policy distillation (arXiv 2503.02832).

z*_t = z_dpo + w_t (z_dpo - z_rev),  w_t = c sum_v |p_dpo - p_rev| + 1e-3
L = mean_i mean_t beta / w_t KL(pi || softmax z*_t),   on the policy's own rows (`aligndistil_offline`: recorded ones)
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Given, Role, Term
from policyopt.feedback.swapped import Swapped
from policyopt.methods.dpo import dpo
from policyopt.methods.opd import opd
from policyopt.objective.implicit_rewards import ExtrapolatedTeacher
from policyopt.sampling.samplers import RecordedPairs
from policyopt.update.averaging import SequenceMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

aligndistil = replace(
    opd,
    about=About(
        key="aligndistil",
        title="AlignDistil: Token-Level Language Model Alignment as Adaptive Policy Distillation",
        paper="arXiv 2503.02832",
        equation="token-level distillation with adaptive extrapolation; released code",
        mechanism="With the reward that a DPO model implies, RLHF is state by state the distillation of a teacher "
        "whose logits extrapolate from the DPO model, away from one trained on swapped preferences. The farther the "
        "two are apart at a token, the farther it extrapolates. No reward is sampled: every state teaches all tokens.",
        departures="Both teachers are results of earlier stages (`dpo`, `aligndistil_reversed`) and given as models. "
        "Extrapolation is per state: the optimum of the return differs, because later rewards depend on the state. 32 "
        "rows a round by default (the paper: 128).",
        when_to_use="Preference pairs, and a reward of tokens wanted without sampling it.",
        seed=20,
        family="B1",
        nearest="opd",
        policies=("language", "tabular"),
    ),
    objective=(Term("distillation", ExtrapolatedTeacher(beta=0.1, scale=15.0), SequenceMean()),),
    update=GradientSteps({"policy": AdamW(1e-6)}),
    roles={
        "policy": Role(grad=True, full=True),
        "preferred": Role("preferred", when="collected", full=True),
        "reversed": Role("reversed", when="collected", full=True),
    },
    models={
        "preferred": Given("a policy that dpo trained on preferences"),
        "reversed": Given("a policy that aligndistil_reversed trained on the same preferences, swapped"),
    },
)

aligndistil_offline = replace(
    aligndistil,
    about=replace(aligndistil.about, key="aligndistil_offline", nearest="dpo"),
    sampling=RecordedPairs(),
    objective=(Term("distillation", ExtrapolatedTeacher(beta=0.1, scale=10.0), SequenceMean()),),
)

aligndistil_reversed = replace(
    dpo,
    about=replace(aligndistil.about, key="aligndistil_reversed", equation="reverse DPO", nearest="dpo"),
    feedback=Swapped(),
)
"""DPO on swapped preferences: an earlier stage."""

_WORLD = {"selection.count": 64, "update.learning_rate": 0.05, "update.clip_norm": None}
_PLAIN = {"objective.adaptive": False, "objective.scale": 1.0, "objective.beta": 1.0}

claim = Claim(
    statement="The policy distilled from the extrapolated teacher is worth more than one distilled from the DPO model "
    "that it extrapolates from.",
    source="arXiv 2503.02832, section 5 (against DPO); specification 20",
    experiment="bigram_preferences",
    observable="expected true return of the policy after training, exact",
    higher_is_better=True,
    smallest_effect=0.5,
    treated=Arm("aligndistil", {**_WORLD, "objective.beta": 1.0}),
    baseline=Arm(
        "aligndistil",
        {**_WORLD, **_PLAIN, "objective.anchor": "reversed"},
        label="distilled from the DPO model itself",
    ),
    rounds=80,
    scope="A bigram model of 8 symbols, rows of 5, 2000 sampled preferences; both arms have the same two teachers. The "
    "return is not regularised, so an extrapolation that leaves the reference far behind is not charged. "
    "A development seed was looked at before.",
)
