"""NFT: negative-aware fine-tuning (arXiv 2505.18116).

right rows:  l = -log r ;   wrong rows:  l = -log max((1 - q r) / (1 - q), e_n) with the gradient of the first of both
L = sum w(q) l / constant,   r = pi / pi_old per step,  q = share of right rows in the group,  w(q) = 1 - q
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Nothing, Term
from policyopt.methods.dr_grpo import dr_grpo
from policyopt.objective.implicit_negative import ImplicitNegative
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import InformativeGroups
from policyopt.update.averaging import SequenceSum

nft = replace(
    dr_grpo,
    about=About(
        key="nft",
        title="Bridging Supervised Learning and Reinforcement Learning in Math Reasoning",
        paper="arXiv 2505.18116",
        equation="eq. 8 (implicit negative policy), eq. 10 (loss per token); released code: floors, weights of prompts",
        mechanism="Right rows are imitated. Wrong rows are explained by what is left of their writer without right "
        "rows, so their likelihood falls: supervised learning, no clip range. Groups of one kind are dropped.",
        departures="A mean over rows, not a sum. Minibatches keep groups whole. Row ratios: SequenceImplicitNegative.",
        when_to_use="Binary rewards, several minibatches on a batch, no wish to set a clip range.",
        seed=44,
        family="A1",
        nearest="dr_grpo",
    ),
    selection=replace(dr_grpo.selection, rows=InformativeGroups()),
    sampling=Group(size=16),
    credit=Nothing(),
    objective=(Term("policy", ImplicitNegative(), SequenceSum(constant=1000.0), couples=("group",)),),
    update=replace(dr_grpo.update, minibatches=16),
)

_WORLD = {
    "selection.count": 32,
    "sampling.size": 16,
    "update.minibatches": 8,
    "update.clip_norm": None,
    "objective.constant": 1.0,
}

claim = Claim(
    statement="Learning from wrong rows as well reaches a higher success than fine-tuning on the right rows alone.",
    source="arXiv 2505.18116, section 5.2 (against rejection fine-tuning); specification 44",
    experiment="right_arms",
    observable="probability of a right choice after training, exact",
    higher_is_better=True,
    smallest_effect=0.02,
    treated=Arm("nft", _WORLD),
    baseline=Arm("nft", {**_WORLD, "objective.negative": 0.0}, label="right rows only"),
    rounds=20,
    tuning=Tuning("update.learning_rate", (0.03, 0.1)),
    scope="Tables. That it equals GRPO at the first step, with root weights, is a test and not a claim.",
)
