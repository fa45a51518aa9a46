"""PR-LSVI: making RL with preference-based feedback efficient via randomization (arXiv 2310.14554).

o ~ Bernoulli(sigma(theta* . (phi(tau_1) - phi(tau_0)))),  Sigma = lambda I + sum_asked dphi dphi^T, Lambda_h likewise
theta ~ N(theta^, s_r^2 Sigma^-1) ;  w_h ~ N(Lambda_h^-1 sum phi V_{h+1}, s_p^2 Lambda_h^-1)
Q_h = phi theta + clip(phi w_h, 0, (H - h) r_max), pi greedy ;  asked iff (2 / sqrt(pi)) s_r |dphi|_{Sigma^-1} > e
"""

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Copy, Method
from policyopt.feedback.duels import Duels
from policyopt.sampling.opponents import OneOfEach
from policyopt.selection.tasks import Selection
from policyopt.update.planned import RandomisedPlan

pr_lsvi = Method(
    about=About(
        key="pr_lsvi",
        title="Making RL with Preference-based Feedback Efficient via Randomization",
        paper="arXiv 2310.14554",
        equation="algorithm 1 (PR-LSVI), tabular",
        mechanism="Rewards are known only through comparisons of trajectories. What is estimated, rewards and "
        "transitions, is perturbed by Gaussian noise as wide as it is uncertain, and the plan with it explores without "
        "any search over optimistic models. A label is asked for only where two such draws disagree.",
        departures="One-hot features, so tables whose states tell the time. instantiation: logistic link with a "
        "penalised fit, r_max = 1, the comparator is the policy of the episode before. Labels that are not asked for "
        "are drawn and not read.",
        when_to_use="As an oracle of exploration by preferences on small processes.",
        seed=147,
        family="B1",
        nearest="optimistic_actor_critic",
        policies=("tabular",),
    ),
    selection=Selection(count=1),
    sampling=OneOfEach(("policy", "previous")),
    feedback=Duels(),
    objective=(),
    update=RandomisedPlan(),
    models={"previous": Copy()},
)

_WORLD = {"update.horizon": 6, "update.states": 4, "update.ridge": 0.1}

claim = Claim(
    statement="With perturbed estimates comparisons alone find the far bank's reward; the same plan without noise "
    "stays at the near one.",
    source="arXiv 2310.14554, theorem 1 (sublinear regret); specification 147",
    experiment="compared_swims",
    observable="regret of an episode over the best return, mean over all episodes, exact",
    higher_is_better=False,
    smallest_effect=0.1,
    treated=Arm("pr_lsvi", {**_WORLD, "update.reward_noise": 0.5, "update.value_noise": 2.0}),
    baseline=Arm(
        "pr_lsvi", {**_WORLD, "update.reward_noise": 0.0, "update.value_noise": 0.0, "update.ask": -1.0}, label="greedy"
    ),
    rounds=150,
    scope="River swim of 4 states and 6 steps; every comparison is asked for by the greedy arm. A "
    "development seed was looked at before.",
)
