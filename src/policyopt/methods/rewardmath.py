"""RewardMATH: is a reward model's benchmark score worth anything? (arXiv 2410.01729)

rank_j = 1 + #{ k : r(x_j, y_jk) >= r(x_j, y_j0) } ;  Acc = mean 1[rank_j = 1]
validity over reward models: Spearman(Acc, gold of best-of-n)

The benchmark is `evaluation.reward_models` and `policyopt reward`; the composition is what reward models are judged by:
imitation of the best of n own samples by the reward model.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Study
from policyopt.compose import RewardModel
from policyopt.methods.suboptimal_onpolicy import suboptimal_onpolicy
from policyopt.reward.reward_models import ModelReward
from policyopt.sampling.samplers import Group

rewardmath = replace(
    suboptimal_onpolicy,
    about=replace(
        suboptimal_onpolicy.about,
        key="rewardmath",
        title="Evaluating Robustness of Reward Models for Mathematical Reasoning",
        paper="arXiv 2410.01729",
        equation="accuracy and mean reciprocal rank among one right and nine wrong solutions",
        mechanism="A benchmark, not a method of its own: a reward model gets credit only where the right solution is "
        "above several wrong ones of the same style. Its score is worth something if it orders reward models as the "
        "true quality of what is optimised against them does; isolated pairs whose sides differ in style do not.",
        departures="Scores are drawn from a model of correctness, style and noise, not from language models on "
        "problems; best of n is chosen, not trained.",
        when_to_use="Before a reward model is optimised against: `policyopt reward MODEL --pairs FILE --task RECIPE`.",
        seed=2,
        nearest="suboptimal_onpolicy",
        policies=("language", "tabular"),
    ),
    sampling=Group(size=64),
    reward=ModelReward(),
    models={**suboptimal_onpolicy.models, "reward": RewardModel()},
)

_MANY = Arm("", {}, {"benchmark": "one_to_many"}, "one right among nine wrong solutions")
_PAIRS = Arm("", {}, {"benchmark": "pairwise"}, "pairs whose wrong side has the worse style")

claim = Claim(
    statement="Accuracy among several wrong solutions of the same style orders reward models as best-of-64 by them "
    "does; accuracy on pairs that differ in style does not.",
    source="arXiv 2410.01729, section 5 (correlation with optimised policies); specification 2",
    experiment="benchmark_validity",
    observable="Spearman's correlation of the benchmark's accuracy with right choices of best-of-64, over 12 reward "
    "models",
    higher_is_better=True,
    smallest_effect=0.3,
    threshold=0.9,
    treated=_MANY,
    baseline=_PAIRS,
    rounds=1,
    scope="Synthetic reward models: weights of correctness 0 to 2, of style normal with deviation 1.5, noise 1. The "
    "law of styles is one for right and wrong solutions in the first benchmark, as in best-of-n.",
)

study = Study(
    question="Which benchmark of reward models says how well policies do that are optimised against them?",
    experiment="benchmark_validity",
    observable="Spearman's correlation with right choices of best-of-n",
    higher_is_better=True,
    smallest_effect=0.1,
    arms=tuple(
        replace(arm, overrides={"sampling.size": n}, label=f"best of {n}: {arm.name}")
        for n in (4, 16, 64)
        for arm in (_MANY, _PAIRS)
    ),
    rounds=1,
    seeds=10,
)
