"""Implicit Q-learning (IQL, arXiv 2110.06169): the best recorded step, without asking about any other.

L_V  = |tau - 1[u < 0]| u^2,   u = min_e Q'_e(s, a) - V(s)                       (eq. 5)
L_Q  = sum_e (Q_e(s, a) - (r + gamma V(s')))^2 / 2                               (eq. 6)
L_pi = -min(exp(beta (min_e Q'_e(s, a) - V(s))), 100) log pi(a|s)                (eq. 7)
Q' <- 0.995 Q' + 0.005 Q after every update
"""

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Copy, Critic, Method, QCritic, Term
from policyopt.objective.action_values import ExpectileValue, StateValue, TemporalDifference
from policyopt.objective.weighted import AdvantageWeighted, WithCriticAdvantage
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Recorded
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean
from policyopt.update.following import Average
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

iql = Method(
    about=About(
        key="iql",
        title="Offline Reinforcement Learning with Implicit Q-Learning",
        paper="arXiv 2110.06169",
        equation="eq. 5 (expectile), eq. 6 (Bellman error), eq. 7 (policy)",
        mechanism="A state is worth an upper expectile of its recorded steps, so values of the best recorded behaviour "
        "spread backwards; the policy then imitates steps by how much better than that they were.",
        departures="No cosine decay of the policy's learning rate and no dropout; rewards are taken as they are.",
        when_to_use="Recordings that hold good pieces of different episodes; scores of unrecorded actions are not to "
        "be trusted. Any head with a density.",
        nearest="awr",
        policies=("control",),
    ),
    selection=Selection(count=25_600),
    sampling=Recorded(),
    reward=Verified(),
    objective=(
        Term("value", ExpectileValue(0.7), TokenMean(), trains="value"),
        Term("critic", TemporalDifference(StateValue()), TokenMean(), trains="critic"),
        Term("policy", WithCriticAdvantage(AdvantageWeighted(temperature=1 / 3, cap=100.0)), TokenMean()),
    ),
    update=GradientSteps(
        {name: AdamW(learning_rate=3e-4) for name in ("value", "critic", "policy")},
        minibatches=100,
        unit="step",
        clip_norm=None,
        after_step=(Average("target", "critic", decay=0.995),),
    ),
    models={"critic": QCritic(), "target": Copy("critic"), "value": Critic()},
)

_WORLD = {
    "selection.count": 60,
    "update.minibatches": 10,
    "update.after_step.decay": 0.9,
    "objective.critic.loss.gamma": 0.95,
    **{f"update.optimizers.{name}.learning_rate": 0.05 for name in ("value", "critic", "policy")},
}

claim = Claim(
    statement="An upper expectile (0.9) of recorded values gives a better policy from recordings of random behaviour "
    "than the mean (0.5), which is one step of improvement on who recorded.",
    source="arXiv 2110.06169, section 5.1 and figure 3",
    experiment="pit_corridor",
    observable="share of the way from who recorded to the best policy",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=Arm("iql", {**_WORLD, "objective.value.loss.expectile": 0.9}),
    baseline=Arm("iql", {**_WORLD, "objective.value.loss.expectile": 0.5}, label="iql with the mean"),
    rounds=40,
    scope="A table with all actions recorded in all states: no question of support. A development seed on a random "
    "process with rewards everywhere, before the run, showed no difference (0.87 and 0.88): there one step of "
    "improvement is nearly all there is.",
)
