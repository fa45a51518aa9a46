"""DCPPO: learning dynamic choices via pessimism (arXiv 2305.18438).

pi_b = softmax(Q_b), Q_b(s, a) = r + g E[log sum exp Q_b(s', .)], r(s, a0) = 0
1. Q^(s, a) = log pi_b^(a|s) - log pi_b^(a0|s) + g E^[V^(s') | s, a0], V^ = log sum exp Q^
2. r^ = argmin_r sum_i (r + g V^(s'_i) - Q^)^2 + lambda r^2
3. pi greedy in Q~ = clip(r^ + P^ max Q~ - c sqrt(phi Lambda^-1 phi), 0, H - h + 1);  of tables c / sqrt(n + lambda)
"""

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Method
from policyopt.sampling.samplers import Recorded
from policyopt.selection.tasks import Selection
from policyopt.update.planned import PessimisticChoices

dcppo = Method(
    about=About(
        key="dcppo",
        title="Reinforcement Learning with Human Feedback: Learning Dynamic Choices via Pessimism",
        paper="arXiv 2305.18438",
        equation="algorithms 1 and 2 (dynamic choices, pessimistic value iteration), tabular",
        mechanism="Somebody who looks ahead and errs now and then leaves traces of what things are worth: log-odds of "
        "the choices are differences of action values. From them the rewards are recovered by regression, and a "
        "plan with these rewards, charged for what was rarely seen, does better than the person.",
        departures="One-hot features, so tables whose states tell the time. instantiation: the constant of a state is "
        "fixed by the choice of reward 0, backwards in time; 1/2 is added to counts of choices.",
        when_to_use="Logs of good but fallible decisions, without rewards, and a process small enough to write down.",
        seed=228,
        family="B1",
        nearest="optimistic_actor_critic",
        policies=("tabular",),
    ),
    selection=Selection(count=100),
    sampling=Recorded(),
    objective=(),
    update=PessimisticChoices(),
)

claim = Claim(
    statement="A plan with the rewards that a fallible person's choices reveal is within 5% of the best; imitation "
    "keeps the person's errors.",
    source="arXiv 2305.18438, theorem 3.5 (suboptimality); specification 228",
    experiment="myopic_person",
    observable="return / that of the best policy, exact",
    higher_is_better=True,
    smallest_effect=0.1,
    threshold=0.95,
    treated=Arm("dcppo", {"update.horizon": 4, "update.largest": 2.0, "update.discount": 0.5}),
    baseline=Arm("sft", {"selection.count": 100, "update.learning_rate": 0.3, "update.clip_norm": None}),
    rounds=20,
    scope="5 states, 3 choices, 4 steps, 2,000 episodes; the person's discount of 0.5 is known. Pessimism is not "
    "tested: on development seeds a plan without it is as good from so many episodes (from 100: 0.93 against 0.96).",
)
