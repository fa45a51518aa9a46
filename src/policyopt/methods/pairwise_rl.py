"""Pairwise-RL: a unified pairwise framework for RLHF (arXiv 2504.04950).

Pw(y > y') = (q(first | y, y') + 1 - q(first | y', y)) / 2 ;   R_i = sg Pw(o_i > a_x), a_x the anchor of prompt x
u_t = -kl (log pi_old - log pi_ref) + 1[t = T] R_i ;  GAE, clipped surrogate.  `pairwise_rm`: -log q of right verdicts
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain, Given
from policyopt.credit.given import WhitenedAdvantage
from policyopt.credit.returns import ReturnToGo
from policyopt.methods.ppo import ppo
from policyopt.methods.sft import sft
from policyopt.reward.parts import ReferencePenalty, Verified
from policyopt.reward.wins import WinRate
from policyopt.sampling.opponents import RECORDED, GroupAgainst
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD

pairwise_rl = replace(
    ppo,
    about=About(
        key="pairwise_rl",
        title="A Unified Pairwise Framework for RLHF: Bridging Generative Reward Modeling and Policy Optimization",
        paper="arXiv 2504.04950",
        equation="pairwise generative reward model; pairwise PPO with an anchor",
        mechanism="The reward model names the better of two responses, asked in both orders, and is used exactly as it "
        "was trained: the reward is the probability that a response beats a fixed anchor of its prompt. Scores are so "
        "calibrated prompt by prompt; an offset of the prompt cancels.",
        departures="instantiation: the probability, not its logit, is the reward. The anchor is the world's recorded "
        "row of the task. `pairwise_rm` is supervised learning of a judge model on verdicts, as another stage with a "
        "world of its own (`contests`).",
        when_to_use="Comparisons are more reliable than scores, and prompts differ in scale.",
        seed=110,
        family="B1",
        nearest="ppo",
        policies=("language", "tabular"),
    ),
    sampling=GroupAgainst(size=1, opponents=1, by=RECORDED),
    reward=Chain((WinRate(opponents=True, judge="judge"), ReferencePenalty(0.01))),
    constraint=(),
    models={**ppo.models, "judge": Given("a model that names the better of two rows")},
)

pairwise_rm = replace(
    sft,
    about=replace(
        pairwise_rl.about, key="pairwise_rm", nearest="sft", equation="loss of the reward model", policies=()
    ),
    policy="judge",
    world="contests",
)

_WORLD = {
    "selection": replace(ppo.selection, count=50),
    "objective": ppo.objective[:1],
    "credit": Chain((ReturnToGo(), WhitenedAdvantage())),
    "roles": {"old": ppo.roles["old"]},
    "models": {},
    "update": GradientSteps({"policy": SGD(15.0)}, clip_norm=None),
}
_PAIRWISE = {**_WORLD, "reward": WinRate(opponents=True)}

claim = Claim(
    statement="With a reward model that adds a large offset to every prompt, the chance to beat an anchor teaches a "
    "policy without prompt baseline more than the raw score.",
    source="arXiv 2504.04950, section 3 (calibration by anchors); specification 110",
    experiment="offset_scores",
    observable="win rate over a uniformly drawn answer, true quality, exact",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("pairwise_rl", _PAIRWISE, label="pairwise_rl"),
    baseline=Arm("pairwise_rl", {**_WORLD, "reward": Verified()}, label="the raw score"),
    rounds=300,
    scope="50 prompts, 5 answers, offsets of standard deviation 10. Both arms have whitened advantages and no critic "
    "and no KL: a table critic would learn each prompt's offset.",
)
