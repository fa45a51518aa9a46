"""Reward model of preferences (InstructGPT, arXiv 2203.02155, eq. 1; Bradley and Terry 1952).

    L = -mean log sigma( r(x, y_w) - r(x, y_l) )

A stage of its own: a later one reads the model `reward` by `reward: model_reward`. `reward_model:reference_conditioned`
reads r(x, y*, y): the task's own answer y* stands beside the prompt.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Method, RewardModel, Term, chosen_rows
from policyopt.objective.reward_models import PairRanking
from policyopt.sampling.samplers import RecordedPairs
from policyopt.selection.tasks import Selection
from policyopt.types import REFERENCE_ANSWER
from policyopt.update.averaging import RowMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

reward_model = Method(
    about=About(
        key="reward_model",
        title="Training language models to follow instructions with human feedback (the reward model)",
        paper="arXiv 2203.02155",
        equation="eq. 1",
        mechanism="A number for every whole row, from a copy of the policy with a linear head, fitted to preference "
        "pairs by logistic regression on differences. The policy itself does not move.",
        departures="Pairs, not lists of K answers ranked at once; `objective.loss=list_ranking` takes those.",
        when_to_use="Before reinforcement learning on preferences: answers that are no one's verifiable task.",
        nearest="dpo",
        policies=("language", "tabular"),
    ),
    selection=Selection(count=64),
    sampling=RecordedPairs(),
    objective=(Term("reward", PairRanking(), RowMean(), mask=chosen_rows, trains="reward", couples=("pair",)),),
    update=GradientSteps({"reward": AdamW(1e-5)}),
    models={"reward": RewardModel()},
)

reference_conditioned = replace(
    reward_model,
    about=replace(
        reward_model.about,
        key="reference_conditioned",
        equation="eq. 1, r reads the reference answer as well",
        mechanism="The same model and loss; every row is read under a context that holds the task's own answer.",
        when_to_use="Answers that are right in many ways, so that no rule compares them with the recorded one.",
        policies=("language",),
    ),
    models={"reward": RewardModel(context=REFERENCE_ANSWER)},
)

_WORLD = {"update.learning_rate": 0.05, "update.schedule": "constant"}

claim = Claim(
    statement="Fitted to preferences, a reward model orders answers as the gold reward does more often than the "
    "log-probabilities of a policy that imitates the preferred answers.",
    source="arXiv 2203.02155, section 3.5; Stiennon et al. (2020), section 4.3",
    experiment="ordered_answers",
    observable="share of all pairs of answers to a context in the order of the gold reward, exact",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("reward_model", _WORLD),
    baseline=Arm("sft", _WORLD, label="imitating the preferred answers"),
    rounds=100,
    scope="20 contexts, 30 answers, gold rewards and reward model linear in 12 features; pairs are of a policy that "
    "likes answers for other reasons than their worth.",
)
