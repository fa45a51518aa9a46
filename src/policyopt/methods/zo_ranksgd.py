"""ZO-RankSGD: zeroth-order optimization from ranking oracles (arXiv 2303.03751).

candidates theta + mu xi_i, of which an oracle orders the best k of m ;  N: all pairs (i, j) it orders, i above j
theta <- theta + gamma / |N| sum_{(i, j) in N} (xi_i - xi_j),   gamma by a line search that only ranks as well
"""

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Method
from policyopt.reward.parts import Verified
from policyopt.sampling.perturbed import Perturbed
from policyopt.selection.tasks import Selection
from policyopt.update.ranked import RankedStep

zo_ranksgd = Method(
    about=About(
        key="zo_ranksgd",
        title="Zeroth-Order Optimization Meets Human Feedback: Provable Learning via Ranking Oracles",
        paper="arXiv 2303.03751",
        equation="algorithms 1 (rank-based gradient) and 2 (ZO-RankSGD with line search)",
        mechanism="Copies of the policy with perturbed parameters are ranked, and every pair that the ranking orders "
        "votes for the difference of their perturbations. Only the order enters, so any increasing function of the "
        "reward gives the same run, and a person who ranks would do.",
        departures="The ranking is that of mean rewards; ties go by number. No diffusion latents: parameters of any "
        "policy. The line search draws fresh attempts at the same tasks, and never goes back to "
        "candidates of earlier rounds.",
        when_to_use="Feedback that only orders, or rewards of unknown scale, and few parameters.",
        seed=129,
        family="B1",
        nearest="reinforce",
    ),
    selection=Selection(count=1),
    sampling=Perturbed(candidates=10, scale=0.1),
    reward=Verified(),
    objective=(),
    update=RankedStep(rate=2.0, best=3, points=8),
)

_WORLD = {"sampling.candidates": 12, "update.points": 0}

claim = Claim(
    statement="Where rewards grow steeply, ranks of perturbed policies lead to more than their standardised rewards "
    "do.",
    source="arXiv 2303.03751, section 2 (invariance under increasing functions); specification 129",
    experiment="steep_rewards",
    observable="expected share of right symbols after training, exact",
    higher_is_better=True,
    smallest_effect=0.05,
    treated=Arm("zo_ranksgd", {**_WORLD, "update.best": 6}),
    baseline=Arm("zo_ranksgd", {**_WORLD, "update.by": "values"}, label="weighed by standardised rewards"),
    rounds=60,
    tuning=Tuning("update.rate", (1.0, 3.0), seeds=1),
    scope="A table over strings of 8 of 4 symbols, one row a candidate, reward exp(30 share right): without a search, "
    "as its ranking is noisy where rows are sampled. A development seed was looked at before.",
)
