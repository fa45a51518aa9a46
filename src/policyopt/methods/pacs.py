"""PACS: implicit actor critic coupling via supervised learning (arXiv 2509.02522).

u_i = beta sum_t (log pi - log pi_old) ;   psi_i = u_i - mean_{j != i} u_j
L = mean_i w_i (softplus(psi_i) - R_i psi_i),   w_i = G / (2 n of the label of i)
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Nothing, Role, Term, trained_rows
from policyopt.methods.rloo import rloo
from policyopt.objective.implicit import ImplicitClassifier
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Group
from policyopt.update.averaging import RowMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD

pacs = replace(
    rloo,
    about=About(
        key="pacs",
        title="Implicit Actor Critic Coupling via a Supervised Learning Framework for RLVR",
        paper="arXiv 2509.02522",
        equation="proxy reward, leave-one-out logit, cross-entropy; released code: variants, class weights",
        mechanism="A verifier's outcome is a class label. The row's log-likelihood gain over the policy that wrote "
        "it, compared with the others of its group, is the logit of a classifier of that label. The gradient is a "
        "policy gradient whose weight, label less predicted probability, fades as the rows are told apart.",
        departures="A reward above a threshold counts as right. The variants of the code are options of the loss.",
        when_to_use="Binary rewards and several epochs on a batch, without a clip to set.",
        seed=28,
        family="A1",
        nearest="rloo",
        policies=("language", "denoising", "tabular"),
    ),
    sampling=Group(size=8),
    reward=Verified(),
    credit=Nothing(),
    objective=(Term("policy", ImplicitClassifier(), RowMean(), mask=trained_rows, couples=("group",)),),
    update=replace(rloo.update, minibatches=4),
    roles={"old": Role(when="collected")},
    models={},
)

_WORLD = {
    "selection.count": 32,
    "sampling.size": 8,
    "update": GradientSteps({"policy": SGD(60.0)}, epochs=10, clip_norm=None),
}

claim = Claim(
    statement="Over ten epochs on a batch the policy changes less than under rloo without a clip, because a row's "
    "weight fades as it is told apart.",
    source="arXiv 2509.02522, section 3.2 (gradient as an actor with an implicit critic); specification 28",
    experiment="epochs_on_a_batch",
    observable="largest KL(policy before || after) of a round (nats), exact",
    higher_is_better=False,
    smallest_effect=0.3,
    treated=Arm("pacs", _WORLD),
    baseline=Arm(
        "rloo",
        {**_WORLD, "reward": Verified(), "objective.clip_low": 1.0, "objective.clip_high": 1e9},
        label="rloo without clip and KL",
    ),
    rounds=20,
    scope="Tables, one learning rate for both arms. Expected reward and entropy after training are in the notes.",
)
