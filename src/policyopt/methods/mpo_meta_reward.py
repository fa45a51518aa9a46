"""MPO: meta policy optimization with an evolving reward model (arXiv 2504.20157, section 3).

R_i = RM(x, o_i | rubric_j), raw ;  every k batches: c_m = MRM_analyse(x_m, o_m, R_m, rubric_j) of n drawn rows,
rubric^m = MRM_refine(c_m, rubric_j), rubric_(j+1) = MRM_merge(rubric^1 .. rubric^n) ;   PPO with KL in the reward
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain, Copy, Critic, Role
from policyopt.methods.ppo import ppo
from policyopt.reward.parts import ReferencePenalty
from policyopt.reward.rubric import RubricReward

mpo_meta_reward = replace(
    ppo,
    about=About(
        key="mpo_meta_reward",
        title="Toward Evaluative Thinking: Meta Policy Optimization with Evolving Reward Models",
        paper="arXiv 2504.20157",
        equation="section 3 (meta analysis, refinement and merging of the rubric), PPO objective",
        mechanism="The judge's rubric is a variable. Every k batches a meta judge reads what was written and how it "
        "was scored, refines the rubric for each sample and merges the refinements: a loophole is closed while the "
        "policy learns.",
        departures="Both judges are methods of the world: language models in the paper, lists of rules here. beta = "
        "0.02 is the released one; the released run on mathematics rewrites every 20 batches from 16 rows.",
        when_to_use="A prompted judge that the policy learns to exploit.",
        seed=71,
        family="A2",
        nearest="ppo",
        policies=(),
    ),
    reward=Chain((RubricReward(every=10, samples=20), ReferencePenalty(beta=0.02))),
    constraint=(),
    roles={"old": Role(when="collected"), "reference": Role("reference", when="collected")},
    models={"reference": Copy(), "critic": Critic()},
)

_WORLD = {
    "selection.count": 64,
    "update.optimizers.policy.learning_rate": 0.03,
    "update.optimizers.critic.learning_rate": 0.05,
    "update.minibatches": 1,
}

claim = Claim(
    statement="A rubric that is rewritten while the policy learns yields better rows than the first rubric, which has "
    "a loophole.",
    source="arXiv 2504.20157, section 4; specification 71",
    experiment="a_hackable_rubric",
    observable="expected true quality of a row after training, exact, in 0..1",
    higher_is_better=True,
    smallest_effect=0.2,
    treated=Arm("mpo_meta_reward", _WORLD),
    baseline=Arm("mpo_meta_reward", {**_WORLD, "reward.rubric_reward.every": None}, label="the first rubric for ever"),
    rounds=60,
    scope="Strings of up to 6 of 5 symbols; judge and meta judge are lists of rules. Notes: the share of the largest "
    "score that the judge gives.",
)
