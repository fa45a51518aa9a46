"""CRM: collaborative reward modelling (Two Minds Better Than One, arXiv 2505.10597).

d_a = r_a(y_w) - r_a(y_l),  l_a = -log sigma(d_a) ;   S_a = the ceil(lam n) pairs of a batch with the smallest l_a
L_1 = mean_{S_2} l_1,  L_2 = mean_{S_1} l_2 ;   lam(e) = 1 - noise min(1, e / ramp)
each epoch visits its batches by decreasing mean of (d_1 + d_2) / 2
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain, Copy, Method, RewardModel, Role, Term, chosen_rows
from policyopt.feedback.peers import PeerReview
from policyopt.methods.ppo import ppo
from policyopt.objective.reward_models import PairRanking
from policyopt.reward.parts import ReferencePenalty
from policyopt.reward.reward_models import ModelReward
from policyopt.sampling.samplers import RecordedPairs
from policyopt.selection.margins import InOrder, SortByMargin
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import RowMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW


def taught_first(seen, batch):
    """Pairs that the second model chose for the first."""
    return chosen_rows(seen, batch) & batch.row["taught:first"]


def taught_second(seen, batch):
    """Pairs that the first model chose for the second."""
    return chosen_rows(seen, batch) & batch.row["taught:second"]


def _learns(model, mask):
    return Term(model, PairRanking(model), RowMean(), mask, trains=model, couples=("pair",))


crm = Method(
    about=About(
        key="crm",
        title="Two Minds Better Than One: Collaborative Reward Modeling for LLM Alignment",
        paper="arXiv 2505.10597",
        equation="peer review and curriculum of section 4",
        mechanism="Two reward models are trained side by side on preferences of which some are wrong. In every batch "
        "each hands the pairs that it finds cleanest to the other, which learns from exactly those, so that none "
        "confirms its own mistakes. Batches are visited from easy to hard, which keeps both at one level.",
        departures="instantiation: the keep rate falls linearly over `ramp` epochs to 1 - noise; batches, not pairs, "
        "are sorted. A round is a batch. The version on implicit rewards (two policies under DPO) is left out. "
        "`crm_policy` is PPO with the mean of both models as reward.",
        when_to_use="Preference data with many wrong labels.",
        seed=5,
        family="B1",
        nearest="dpo",
        policies=("language", "tabular"),
    ),
    selection=Selection(count=64, tasks=InOrder()),
    sampling=RecordedPairs(),
    feedback=PeerReview(noise=0.4, ramp=10),
    objective=(_learns("first", taught_first), _learns("second", taught_second)),
    update=GradientSteps({"first": AdamW(1e-3), "second": AdamW(1e-3)}, clip_norm=None),
    models={"first": RewardModel(), "second": RewardModel()},
    before=(SortByMargin(),),
)

crm_policy = replace(
    ppo,
    about=replace(crm.about, key="crm_policy", equation="downstream use of both models", nearest="ppo"),
    reward=Chain((ModelReward(("first", "second")), ReferencePenalty())),
    constraint=(),
    roles={**ppo.roles, "reference": Role("reference", when="collected")},
    models={**ppo.models, "reference": Copy(), **crm.models},
)

claim = Claim(
    statement="With four of ten labels flipped, reward models that choose for each other what to learn end up better "
    "on clean preferences than the same models trained on everything.",
    source="arXiv 2505.10597, section 5 (noise of 20 to 40%); specification 5",
    experiment="flipped_preferences",
    observable="accuracy on clean test pairs after the last epoch, mean of both models",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("crm", {"selection.count": 128}),
    baseline=Arm(
        "crm", {"feedback.noise": 0.0, "before": (), "selection": Selection(128)}, label="both on all pairs, unsorted"
    ),
    rounds=320,
    scope="1024 pairs from a hidden linear reward in 20 dimensions, perceptrons of 128 units, 40 epochs of batches of "
    "128; the noise rate is known to the method. The specification has 2000 pairs, 60 epochs and batches of 64. A "
    "development seed was looked at before.",
)
