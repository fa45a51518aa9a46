"""D-PPO: PPO that drops the samples which raise the surrogate's variance (arXiv 2310.20380).

u_t = r_t A_t ;  phi_t = u_t sum_{k != t} u_k over the minibatch ;  n^2 Var(u) = (n - 1) sum u_t^2 - sum phi_t
of {phi >= 0} and of {phi < 0} the floor(rho n) smallest are left out ;  L = PPO's loss, mean over kept samples
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Term
from policyopt.methods.ppo import ppo
from policyopt.objective.dropout import SurrogateDropout, kept_steps
from policyopt.update.averaging import TokenMean

d_ppo_dropout = replace(
    ppo,
    about=About(
        key="d_ppo_dropout",
        title="Dropout Strategy in Reinforcement Learning: Limiting the Surrogate Objective Variance in Policy "
        "Optimization Methods",
        paper="arXiv 2310.20380",
        equation="the bound on the surrogate's variance and its cross terms, D-PPO",
        mechanism="The surrogate's variance grows over a round's epochs. Every sample is scored by its cross term "
        "with the others; the share with the smallest scores, of each sign, is left out of the policy's loss.",
        departures="The score is our instantiation of the paper's cross term (no official code is known): phi_t "
        "above, floor(rho n) of each sign, rho = 0.2. The critic learns from all samples.",
        when_to_use="Many epochs on a batch, when the logged variance of r A climbs within a round.",
        seed=88,
        family="A1",
        nearest="ppo",
    ),
    objective=(
        Term("policy", SurrogateDropout(0.2, 0.2, 0.2), TokenMean(), mask=kept_steps),
        *(term for term in ppo.objective if term.name != "policy"),
    ),
)

_WORLD = {
    "selection.count": 32,
    "update.optimizers.critic.learning_rate": 0.05,
    "update.epochs": 10,
    "update.minibatches": 1,
    "constraint.kl.weight": 0.0,
}

claim = Claim(
    statement="Dropping samples by their cross terms lowers the variance of r A over a round's updates.",
    source="arXiv 2310.20380, abstract; specification 88",
    experiment="surrogate_variance",
    observable="variance of r A over all samples of an update, mean over updates",
    higher_is_better=False,
    smallest_effect=0.05,
    treated=Arm("d_ppo_dropout", _WORLD),
    baseline=Arm("d_ppo_dropout", {**_WORLD, "objective.share": 0.0}, label="ppo"),
    rounds=30,
    tuning=Tuning("update.optimizers.policy.learning_rate", (0.03, 0.1, 0.3)),
    scope="Strings, not control. With share 0 it is PPO bit for bit. The variance is of all samples, dropped ones "
    "included; the share of right symbols is in the notes.",
)
