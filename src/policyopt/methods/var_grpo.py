"""GRPO for next-scale visual autoregressive models (arXiv 2505.23331).

An image is K scales, s_k a grid of n_k tokens, independent given the coarser scales.
L = -mean_i 1 / (sum_k n_k) sum_(k, u) { min(r A_i, clip(r, 1 - e, 1 + e) A_i) - beta k3(pi, pi_ref) },  r per token

`var_grpo_scales`: a scale is one action, r_k = exp(mean_u log pi - log pi_old), mean over the K scales.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Term
from policyopt.constraint.divergence import K3Loss
from policyopt.methods.grpo import grpo
from policyopt.objective.turns import OverTurns
from policyopt.update.averaging import SequenceMean
from policyopt.update.turns import TurnMean

var_grpo = replace(
    grpo,
    about=About(
        key="var_grpo",
        title="Fine-Tuning Next-Scale Visual Autoregressive Models with Group Relative Policy Optimization",
        paper="arXiv 2505.23331",
        equation="GRPO objective over the tokens of all scales, KL to the pretrained model",
        mechanism="An image generator predicts whole scales from coarse to fine. Its tokens are the steps of a row, "
        "the scales its turns; images of a class are a group, rewards come from the decoded image.",
        departures="The method is GRPO; image models and aesthetic or CLIP rewards were the paper's. Log-probabilities "
        "are those of the sampled distribution, without guidance. The form with one ratio per scale is the "
        "specification's.",
        when_to_use="Generators whose tokens of a scale are drawn in parallel, and rewards of whole images.",
        seed=107,
        family="A2",
        nearest="grpo",
        policies=("language", "tabular"),
    ),
    constraint=(Term("kl", K3Loss(), SequenceMean(), weight=0.04),),
)

var_grpo_scales = replace(
    var_grpo,
    about=replace(var_grpo.about, key="var_grpo_scales", equation="one ratio per scale (specification 107)"),
    objective=(Term("policy", OverTurns(grpo.objective[0].loss), TurnMean()),),
    constraint=(Term("kl", OverTurns(K3Loss()), TurnMean(), weight=0.04),),
)

_WORLD = {"selection.count": 4, "sampling.size": 8, "constraint.kl.weight": 0.01, "update.learning_rate": 0.15}

claim = Claim(
    statement="Fine-tuning raises a reward of images that pretraining knew nothing of to at least 0.9.",
    source="arXiv 2505.23331, section 4; specification 107",
    experiment="images_by_scales",
    observable="expected share of lit pixels after training, exact, mean over conditions",
    higher_is_better=True,
    smallest_effect=0.3,
    threshold=0.9,
    treated=Arm("var_grpo", _WORLD),
    baseline=Arm("var_grpo", {**_WORLD, "update.learning_rate": 1e-9}, label="the pretrained generator"),
    rounds=40,
    scope="Binary images of 8 x 8 in scales 1, 2, 4, 8; a table by place and coarser pixel, pretrained on stripes by "
    "counting. Notes: how different images are after training.",
)
