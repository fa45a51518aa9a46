"""Self-reference feedback (Aligning LLMs from Self-Reference AI Feedback with one General Principle, arXiv 2406.11190).

v = majority of J verdicts in alternating order, given the annotator's own answer;  m = c |log q - log(1 - q)|
L = log(1 + exp(m + r(x, y_l) - r(x, y_w))) ;   then PPO with r - kl (`self_ref_feedback_policy`)
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain, Copy, Method, RewardModel, Role, Term, chosen_rows
from policyopt.feedback.annotator import AnnotatedPairs
from policyopt.methods.ppo import ppo
from policyopt.objective.reward_models import PairRanking
from policyopt.reward.parts import ReferencePenalty
from policyopt.reward.reward_models import ModelReward
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import PairedRows, Selection
from policyopt.update.averaging import RowMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

self_ref_feedback = Method(
    about=About(
        key="self_ref_feedback",
        title="Aligning Large Language Models from Self-Reference AI Feedback with one General Principle",
        paper="arXiv 2406.11190",
        equation="margin loss of the reward model; released code",
        mechanism="The annotator first answers the prompt itself and judges two candidates with its own answer at "
        "hand, several times and in both orders, so that noise and a taste for positions cancel in the vote. How sure "
        "it is becomes the margin by which the reward model has to tell the two apart.",
        departures="instantiation: strength from the log-odds of the verdict, not from perplexities. The "
        "language-model term of the reward model's loss (weight c_lm) is left out: reward models here have "
        "no head of tokens.",
        when_to_use="Preferences from a model that answers better than it compares.",
        seed=245,
        family="B1",
        nearest="dpo",
        policies=("language",),
    ),
    selection=Selection(count=32, rows=PairedRows()),
    sampling=Group(size=2),
    feedback=AnnotatedPairs(),
    objective=(
        Term("reward", PairRanking(margin="strength"), RowMean(), mask=chosen_rows, trains="reward", couples=("pair",)),
    ),
    update=GradientSteps({"reward": AdamW()}),
    models={"reward": RewardModel(), "annotator": Copy()},
)

self_ref_feedback_policy = replace(
    ppo,
    about=replace(
        self_ref_feedback.about,
        key="self_ref_feedback_policy",
        equation="PPO, r - kl",
        nearest="ppo",
        policies=("language", "tabular"),
    ),
    reward=Chain((ModelReward(), ReferencePenalty())),
    constraint=(),
    roles={**ppo.roles, "reference": Role("reference", when="collected")},
    models={**ppo.models, "reference": Copy(), "reward": RewardModel()},
)

_WORLD = {"update.learning_rate": 0.05, "feedback.scale": 0.2}

claim = Claim(
    statement="With an answer of its own at hand and votes in both orders, an annotator labels pairs rightly more "
    "often than in a single call without them.",
    source="arXiv 2406.11190, section 4 (accuracy of AI feedback); specification 245",
    experiment="annotated_items",
    observable="share of decided pairs that are labelled rightly, over all rounds",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=Arm("self_ref_feedback", _WORLD),
    baseline=Arm(
        "self_ref_feedback", {**_WORLD, "feedback.votes": 1, "feedback.reference": False}, label="a single plain call"
    ),
    rounds=60,
    scope="A scripted annotator: a taste of 1 (log-odds) for the row it reads first, noise of deviation 1.5 on its "
    "view of the gap in quality, 0.5 with an answer of its own. A development seed was looked at before.",
)
