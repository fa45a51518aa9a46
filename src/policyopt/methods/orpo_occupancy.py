"""ORPO: occupancy-regularised policy optimization against reward hacking ("Correlated Proxies", arXiv 2403.03185).

    L_d = mean_pi softplus(-d) + mean_base softplus(d)                     (then d = log mu_pi / mu_base)
    R'_t = R_t - lambda (exp(d_t) - 1) / sqrt(mean_pi (exp(d) - 1))         (gradient of lambda sqrt(chi^2)); PPO on R'

`orpo_sequences`, for policies whose whole rows have probabilities: R' = R - lambda (u - 1), u = pi(row) / pi_base(row).
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain, Copy, Critic, QCritic, Role, Term
from policyopt.methods.ppo import ppo
from policyopt.objective.ratio import Authorship, steps_of_first, steps_of_others
from policyopt.reward.occupancy import RootChiSquarePenalty, SequenceChiSquarePenalty
from policyopt.reward.parts import ReferencePenalty, Verified
from policyopt.update.averaging import TokenMean
from policyopt.update.first import TrainedFirst
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

orpo_occupancy = replace(
    ppo,
    about=About(
        key="orpo_occupancy",
        title="Correlated Proxies: A New Definition and Improved Mitigation for Reward Hacking",
        paper="arXiv 2403.03185",
        equation="section 4 (discriminator, charged reward); theorem 5.1 (bound by sqrt chi-square)",
        mechanism="A proxy reward correlates with the true one where the base policy goes, so the distance that counts "
        "is that between the states and steps visited, not between the choices at each state. A discriminator tells "
        "the policy's steps from the base policy's; its odds are charged in the reward.",
        departures="The discriminator learns from rows of its own, drawn before the round's, so that no row is charged "
        "by a discriminator that has seen it. It is as wide as the policy's own action values. Its odds are cut at 20.",
        when_to_use="A proxy reward that the trained policy could game, and a base policy that is safe but not best.",
        seed=26,
        family="A1",
        nearest="ppo",
        policies=("control", "tabular"),
    ),
    reward=Chain((Verified(), RootChiSquarePenalty())),
    constraint=(),
    roles={"old": Role(when="collected")},
    models={"reference": Copy(), "critic": Critic(), "discriminator": QCritic(heads=1)},
    before=(
        TrainedFirst(
            terms=(
                Term("ours", Authorship(), TokenMean(), mask=steps_of_first, trains="discriminator"),
                Term("theirs", Authorship(), TokenMean(), mask=steps_of_others, trains="discriminator"),
            ),
            update=GradientSteps({"discriminator": AdamW(learning_rate=1e-3)}, epochs=10, minibatches=4),
        ),
    ),
)

orpo_sequences = replace(
    ppo,
    about=replace(
        orpo_occupancy.about,
        key="orpo_sequences",
        equation="section 5 (language): sequence ratios in place of occupancy ratios",
        departures="None: rows are charged by their own probabilities, no discriminator.",
        policies=("language", "tabular"),
    ),
    reward=Chain((Verified(), SequenceChiSquarePenalty())),
    constraint=(),
)

_WORLD = {
    "selection.count": 32,
    "credit.gamma": 0.95,
    "update.minibatches": 2,
    "update.optimizers.policy.learning_rate": 0.1,
    "update.optimizers.critic.learning_rate": 0.1,
}

claim = Claim(
    statement="Where one state games the proxy, a charge on occupancies reaches a higher true reward at its best "
    "coefficient than a charge on the choices at each state.",
    source="arXiv 2403.03185, section 6 (tomato gridworld); specification 26",
    experiment="gamed_sprinkler",
    observable="true reward per step of the best coefficient of five",
    higher_is_better=True,
    smallest_effect=0.02,
    treated=Arm(
        "orpo_occupancy",
        {
            **_WORLD,
            "before.count": 32,
            "before.epochs": 5,
            "before.minibatches": 2,
            "before.optimizers.discriminator.learning_rate": 0.2,
        },
        {"option": "reward.coefficient", "values": (0.3, 0.1, 0.05, 0.03, 0.01)},
    ),
    baseline=Arm(
        "ppo",
        {
            **_WORLD,
            "selection.count": 96,
            "reward": Chain((Verified(), ReferencePenalty())),
            "constraint": (),
        },
        {"option": "reward.beta", "values": (1.0, 0.5, 0.3, 0.2, 0.1)},
        label="ppo with the KL of choices in the reward",
    ),
    rounds=60,
    scope="A garden of 9 cells and 3 plants, tables, episodes of 30 steps. World, learning rates and both ranges of "
    "coefficients were settled before the run, from the exact optima of both objectives and on one development seed "
    "outside those of the verdict. Both arms generate as many rows: the treated one spends two thirds of them on its "
    "discriminator. The baseline's KL stands in the reward, where it counts along the whole row; in the paper it is "
    "a term of the loss.",
)
