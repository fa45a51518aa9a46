"""DR-PO: dataset reset policy optimization (arXiv 2404.08495).

b ~ Bernoulli(beta_reset), h ~ Uniform{1..|y*| - 1} if b = 1 else 0 ;   y_1..y_h = y*_1..y*_h, then y_t ~ pi_old
u_t = -kl (log pi_old - log pi_ref) + 1[t = T] R ;  GAE ;  PPO's losses over the steps t > h that the policy took
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain
from policyopt.methods.ppo import ppo
from policyopt.objective.value import SquaredValueError
from policyopt.reward.parts import ReferencePenalty, Verified
from policyopt.sampling.resets import ResetGroup

_POLICY, _VALUE = ppo.objective

dr_po = replace(
    ppo,
    about=About(
        key="dr_po",
        title="Dataset Reset Policy Optimization for RLHF",
        paper="arXiv 2404.08495",
        equation="algorithm 1; released code Cornell-RL/drpo (roll-in, losses)",
        mechanism="Some episodes do not begin at the prompt but at a random prefix of a preferred response. The policy "
        "goes on from there and PPO trains what it wrote. Informative states are visited from the start, "
        "which removes the problem of exploration.",
        departures="Means and variances run over generated steps only (the released script takes forced and padded "
        "ones too); whitening divides by n - 1; critic and policy are two models; rewards are not whitened.",
        when_to_use="Rewards that come late and demonstrations that show the way.",
        seed=38,
        family="B1",
        nearest="ppo",
        policies=("language", "tabular"),
    ),
    sampling=ResetGroup(share=1.0),
    reward=Chain((Verified(), ReferencePenalty(0.05))),
    objective=(_POLICY, replace(_VALUE, loss=SquaredValueError(clip=0.2), weight=0.1)),
    constraint=(),
    update=replace(ppo.update, minibatches=1),
)

_WORLD = {
    "selection.count": 64,
    "reward": Verified(),
    "roles": {"old": ppo.roles["old"]},
    "update.optimizers.policy.learning_rate": 0.03,
    "update.optimizers.critic.learning_rate": 0.03,
}

claim = Claim(
    statement="On a combination lock that random play never opens, resets to prefixes of demonstrations find the key; "
    "PPO from the start does not.",
    source="arXiv 2404.08495, section 5 (exploration); specification 38",
    experiment="demonstrated_lock",
    observable="probability of opening the lock after training, exact",
    higher_is_better=True,
    smallest_effect=0.5,
    threshold=0.9,
    treated=Arm("dr_po", {**_WORLD, "sampling.share": 0.8}),
    baseline=Arm("dr_po", {**_WORLD, "sampling.share": 0.0}, label="ppo from the start"),
    rounds=200,
    scope="12 moves of 4, paid at the end only; a table of (move, still on the key). At share 1, the default, a "
    "table never learns the first move, which is never generated. Resets generate fewer steps a row. No KL.",
)
