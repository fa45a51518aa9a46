"""An optimistic actor-critic with rare switching (arXiv 2505.03710, "Actor-Critics Can Achieve Optimal Sample
Efficiency").

    Q(s, a) = min(H - h, mean (r + max_a' Q(s', a')) + b / sqrt(1 + n(s, a)))     from all transitions so far
    pi <- pi exp(eta Q) / Z every round ;  when some n(s, a) has doubled: Q anew, pi uniform

`optimistic_recorded` counts recorded rows first (the hybrid form, with bonus 0 where they cover what is good).
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Method
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Group, Recorded
from policyopt.selection.tasks import Selection
from policyopt.update.optimistic import OptimisticWeights

optimistic_actor_critic = Method(
    about=About(
        key="optimistic_actor_critic",
        title="Actor-Critics Can Achieve Optimal Sample Efficiency",
        paper="arXiv 2505.03710",
        equation="algorithm 1 (optimistic critic, rare switching, policy resets), tabular instantiation",
        mechanism="The critic aims at the best policy's values, not the present one's, from all data so far, and "
        "errs on the side of what it has not seen. The actor is an exponential sum of critics. Both are renewed only "
        "when the data have changed enough, so that few policies explore with what is known.",
        departures="A table and a bonus by counts take the place of a function class and its confidence set; the "
        "switch is a doubled count. No official code is known.",
        when_to_use="As an oracle of exploration on small processes, for methods that claim to explore.",
        seed=54,
        family="A1",
        nearest="mdpo",
        policies=("tabular",),
    ),
    selection=Selection(count=1),
    sampling=Group(size=1),
    reward=Verified(),
    objective=(),
    update=OptimisticWeights(rate=1.0, bonus=1.0),
)

optimistic_recorded = replace(
    optimistic_actor_critic,
    about=replace(optimistic_actor_critic.about, key="optimistic_recorded", equation="hybrid variant"),
    sampling=Recorded(),
    update=OptimisticWeights(rate=1.0, bonus=0.0),
)
"""The same on recorded rows: a stage of a program, before the other with bonus 0."""

claim = Claim(
    statement="A critic that is optimistic about what it has rarely seen opens a combination lock of 12 steps that the "
    "same actor-critic without optimism does not.",
    source="arXiv 2505.03710, theorem 1 (sample efficiency by optimism); specification 54",
    experiment="combination_lock",
    observable="probability of opening the lock after 300 episodes, exact",
    higher_is_better=True,
    smallest_effect=0.5,
    treated=Arm("optimistic_actor_critic", {"update.horizon": 12}),
    baseline=Arm("optimistic_actor_critic", {"update.horizon": 12, "update.bonus": 0.0}, label="without the bonus"),
    rounds=300,
    scope="Two choices a step, a wrong one is final, reward 1 at the end. A bonus by counts, not the paper's general "
    "function classes; constants are not the theory's.",
)
