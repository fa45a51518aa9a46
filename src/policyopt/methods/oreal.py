"""OREAL: outcome reward based reinforcement learning (arXiv 2502.06781).

    P(row) = sigma(mean_t w_t), trained by cross-entropy on R ;   om+ = [2 sigma(w) - 1]+, om- = [1 - 2 sigma(w)]+
    L = mean over steps of {right: -A om+ log pi ; wrong: eta |A| om- log pi} + beta KL,  A = R - mean of the others' R

One right and one wrong row a task. `oreal_tokens` trains w alone, for the first rounds.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Chain, Copy, Critic, Role, Term, trained_rows
from policyopt.constraint.divergence import K3Loss
from policyopt.credit.groups import LeaveOneOut
from policyopt.credit.history import SignWeighted
from policyopt.credit.tokens import ByTokenModel
from policyopt.methods.grpo import grpo
from policyopt.objective.successors import RowClassifier
from policyopt.objective.surrogates import PolicyGradient
from policyopt.sampling.samplers import Group
from policyopt.selection.contrast import OneOfEach
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import RowMean, TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

_CLASSIFIER = Term("tokens", RowClassifier(), RowMean(), mask=trained_rows, trains="tokens")

oreal = replace(
    grpo,
    about=About(
        key="oreal",
        title="Exploring the Limit of Outcome Reward for Learning Mathematical Reasoning",
        paper="arXiv 2502.06781",
        equation="policy loss of right and wrong rows, token-level reward model, total loss; released trainer",
        mechanism="With a binary outcome, imitating right answers is what the best of many samples would teach; wrong "
        "ones are pushed away with a weight that falls with the task's success. A token model, trained on outcomes "
        "alone as the mean of its numbers, says which tokens of a row deserve it.",
        departures="The weight (1 - p) of wrong rows is their leave-one-out advantage, as in the released "
        "configuration; right rows are multiplied by theirs. The KL is to the initial policy, as in the released "
        "trainer: to the policy before the update, as in the paper, it has no gradient in the only step of a round. "
        "Sampling is not truncated (released: top-p 0.9). The trainer also weighs steps by the running mean of w "
        "(ByTokenModel(running=True)) and averages right and wrong rows apart. w is one number per state that a step "
        "leads to.",
        when_to_use="Binary rewards on long answers whose outcome hangs on few tokens.",
        seed=170,
        family="A1",
        nearest="rloo",
        policies=("language", "control", "tabular"),
    ),
    selection=Selection(count=64, rows=OneOfEach(most=0.8)),
    sampling=Group(size=16),
    credit=Chain((LeaveOneOut(), SignWeighted(1.0, 0.5), ByTokenModel())),
    objective=(Term("policy", PolicyGradient(), TokenMean()), _CLASSIFIER),
    constraint=(Term("kl", K3Loss(), TokenMean(), weight=0.01),),
    update=GradientSteps({"policy": AdamW(5e-7), "tokens": AdamW(2e-6)}),
    roles={"reference": Role("reference", when="collected")},
    models={"reference": Copy(), "tokens": Critic()},
)

oreal_tokens = replace(
    oreal,
    about=replace(oreal.about, key="oreal_tokens", equation="token-level reward model"),
    objective=(_CLASSIFIER,),
    constraint=(),
    update=GradientSteps({"tokens": AdamW(2e-6)}),
    roles={},
    models={"tokens": Critic()},
)
"""The token model alone: a stage of a program."""

_WORLD = {"selection.count": 16, "sampling.size": 8, "update.optimizers.tokens.learning_rate": 0.1}

claim = Claim(
    statement="Where one step of many decides a binary outcome, weighing steps by a token model that was trained on "
    "outcomes learns more from as many samples than the same without the weights.",
    source="arXiv 2502.06781, sections 3.3 and 4.3 (token-level reward model, ablation); specification 170",
    experiment="one_decisive_step",
    observable="probability of success, mean over rounds (those of warming up the token model included), exact",
    higher_is_better=True,
    smallest_effect=0.03,
    treated=Arm("oreal", _WORLD, {"first": "oreal:oreal_tokens", "warm": 5}),
    baseline=Arm(
        "oreal",
        {**_WORLD, "credit": Chain((LeaveOneOut(), SignWeighted(1.0, 0.5)))},
        label="oreal without token weights",
    ),
    rounds=50,
    tuning=Tuning("update.optimizers.policy.learning_rate", (0.03, 0.1, 0.3)),
    scope="Strings of 12 of 6 symbols, one of which decides; tables. The first 5 rounds of the treated arm train the "
    "token model only.",
)
