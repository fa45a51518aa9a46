"""PROPS: on-policy learning without on-policy sampling (arXiv 2311.08290).

before each piece of a round:  phi <- theta ;  rho = pi_phi / pi_theta on the steps of the buffer D
phi descends mean_D max(rho, clip(rho, 1 - e, 1 + e)), until mean (rho - 1 - log rho) > d ;  the piece is sampled by phi
then PPO on all of D, old log-probabilities recomputed by pi_theta, as if D were on-policy
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Role, Term, Twin
from policyopt.methods.ppo import ppo
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.sampling.collected import UnderSampled
from policyopt.update.apart import Apart
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW
from policyopt.update.stopping import ApproximateKL

props = replace(
    ppo,
    about=About(
        key="props",
        title="On-Policy Policy Gradient Reinforcement Learning Without On-Policy Sampling",
        paper="arXiv 2311.08290",
        equation="behaviour loss, its place in the on-policy loop",
        mechanism="On-policy learning needs data that are distributed as the policy's, not independent draws from it. "
        "A behaviour policy that begins at the policy is moved a little away from what the data hold too often, so the "
        "next rows correct the sampling error, and rows of earlier rounds stay of use.",
        departures="The penalty lambda KL(pi_theta || pi_phi) is 0, as by default, and can be added as a term of "
        "sampling.adapt. Advantages of old rows use the present critic. The behaviour policy's optimiser keeps its "
        "moments when phi returns to theta. PPO's KL term is off.",
        when_to_use="Expensive samples: small batches of on-policy data, or the reuse of the last few.",
        seed=137,
        family="A1",
        nearest="ppo",
    ),
    sampling=UnderSampled(
        batches=2,
        pieces=4,
        adapt=Apart(
            terms=(Term("rarer", ClippedSurrogate(0.3, 0.3), TokenMean(), trains="sampler"),),
            update=GradientSteps({"sampler": AdamW(1e-3)}, epochs=16, stop=ApproximateKL(0.1)),
            roles={"policy": Role("sampler", grad=True), "old": Role(when="collected")},
        ),
    ),
    constraint=(),
    roles={"old": Role(when="collected")},
    models={"critic": ppo.models["critic"], "sampler": Twin()},
)

_STILL = {"update.optimizers.policy.learning_rate": 0.0, "selection.count": 512}

claim = Claim(
    statement="Data that the adapted behaviour policy collects for a fixed policy have a smaller sampling error than "
    "as many on-policy samples.",
    source="arXiv 2311.08290, section 6.2 (correcting sampling error for a fixed target policy); specification 137",
    experiment="sampling_error",
    observable="total variation between frequencies of choices in all data and the policy, mean over 8 bandits",
    higher_is_better=False,
    smallest_effect=0.01,
    treated=Arm("props", {**_STILL, "sampling.pieces": 1, "sampling.batches": 8, "sampling.adapt.learning_rate": 0.03}),
    baseline=Arm("ppo", _STILL, label="on-policy sampling"),
    rounds=8,
    scope="Bandits of 8 arms, 64 new choices a round and bandit, 512 in all. What the data are worth to PPO is not "
    "part of this check. The learning rate of the behaviour policy fits a table.",
)
