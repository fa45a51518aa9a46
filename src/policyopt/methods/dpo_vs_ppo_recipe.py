"""Unpacking DPO and PPO: which ingredients of learning from preferences matter (arXiv 2406.09279).

    DPO: -log sigma(beta D) on pairs ;  PPO: r by -log sigma(r(y_w) - r(y_l)), then  u = r - kl (log pi - log pi_ref)

The composition is the PPO arm's second stage (the first is `reward_model`); `policyopt study dpo_vs_ppo_recipe` has
all arms.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Study
from policyopt.compose import About, Chain, Copy, RewardModel
from policyopt.credit.given import WhitenedAdvantage
from policyopt.credit.returns import ReturnToGo
from policyopt.methods.ppo import ppo
from policyopt.reward.parts import ReferencePenalty
from policyopt.reward.reward_models import ModelReward
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

dpo_vs_ppo_recipe = replace(
    ppo,
    about=About(
        key="dpo_vs_ppo_recipe",
        title="Unpacking DPO and PPO: Disentangling Best Practices for Learning from Preference Feedback",
        paper="arXiv 2406.09279",
        equation="section 2 (DPO and PPO with a Bradley-Terry reward model)",
        mechanism="An ablation, not a method of its own: label quality, the algorithm, the reward model and the "
        "prompts of policy training, one changed at a time. The PPO arm learns a reward model from the "
        "pairs and then optimises it with the distance to the first policy charged in the reward.",
        departures="A log-linear policy and reward model; label noise stands for the quality of preference data, width "
        "of features for the reward model's size, contexts without pairs for unlabelled prompts of the target domain.",
        when_to_use="As the classical pipeline (recipes/rlhf.yaml); the study before choosing between DPO and PPO.",
        seed=248,
        family="B1",
        nearest="ppo",
        policies=("language", "tabular"),
    ),
    reward=Chain((ModelReward(), ReferencePenalty(beta=0.1))),
    constraint=(),
    models={**ppo.models, "reward": RewardModel()},
)

_PPO = {
    "selection.count": 128,
    "objective": ppo.objective[:1],
    "credit": Chain((ReturnToGo(), WhitenedAdvantage())),
    "models": {"reference": Copy(), "reward": RewardModel()},
    "update": GradientSteps({"policy": AdamW(0.02)}, epochs=2, minibatches=2, clip_norm=None),
}
_DPO = {"objective.beta": 0.1, "update.learning_rate": 0.02, "update.schedule": "constant", "update.clip_norm": None}


def _arms(flips: float, label: str = "") -> tuple[Arm, ...]:
    """DPO, and PPO with reward models of all features and of half of them, and with prompts of all contexts."""
    varied = {"": {}, ", small reward model": {"width": 8}, ", prompts of all contexts": {"prompts": "all"}}
    twice = {"flips": flips, "distinct": 0.5}
    return (
        Arm("dpo", _DPO, {"flips": flips}, f"{label}DPO"),
        Arm("dpo", _DPO, twice, f"{label}DPO, twice on the pairs that PPO's reward model has"),
        *(Arm("", _PPO, {"flips": flips, **given}, f"{label}PPO{name}") for name, given in varied.items()),
    )


claim = Claim(
    statement="From as many rows, PPO on a reward model learned from the pairs reaches a higher gold reward than DPO.",
    source="arXiv 2406.09279, section 3.2 (PPO is ahead by a small margin); specification 248",
    experiment="recipe_of_preferences",
    observable="expected gold reward over all contexts, 0 at the first policy, 1 at the best answers; exact",
    higher_is_better=True,
    smallest_effect=0.02,
    treated=_arms(0.2)[2],
    baseline=_arms(0.2)[0],
    rounds=200,
    scope="40 contexts, of which pairs cover 20, 30 answers, 16 features, 20% of the labels turned round; half of the "
    "PPO arm's rows train its reward model. beta of DPO and of the charge 0.1; no critic.",
)

study = Study(
    question="What counts: the labels, the algorithm, the reward model or the prompts?",
    experiment="recipe_of_preferences",
    observable="expected gold reward over all contexts, 0 at the first policy, 1 at the best answers; exact",
    higher_is_better=True,
    smallest_effect=0.02,
    arms=tuple(arm for flips in (0.0, 0.2, 0.4) for arm in _arms(flips, f"{flips:.0%} of labels wrong: ")),
    rounds=200,
)
