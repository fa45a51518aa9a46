"""DVPO: decoupled value policy optimization (Lean and Mean, arXiv 2502.16944).

    before, on recorded rows:  L = mean (r_t + gamma sg(Q_t+1) - Q_t)^2, r the row's reward on its last token
    then, with Q frozen:       A_t = whiten(sg(Q_t)) ;   L = mean max(-A r, -A clip(r, 1 - e, 1 + e)) + beta KL

`dvpo_values` is the first stage.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Critic, Nothing, Role, Term
from policyopt.constraint.divergence import K3Loss
from policyopt.credit.tokens import FrozenValues
from policyopt.methods.ppo import ppo
from policyopt.objective.successors import SarsaError
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.sampling.samplers import Recorded
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

dvpo = replace(
    ppo,
    about=About(
        key="dvpo",
        title="Lean and Mean: Decoupled Value Policy Optimization with Global Value Guidance",
        paper="arXiv 2502.16944",
        equation="temporal differences of the global value model; policy objective with its frozen values",
        mechanism="A value of single tokens is fitted once, offline, to scored answers, and frozen. It replaces reward "
        "model and critic: its whitened value of a token is the token's advantage in PPO's loss, and nothing but the "
        "policy is trained.",
        departures="The value model is told nothing of the policy that it is used for (the paper puts examples of "
        "it in the context), so it values tokens as the recorded policies would go on. Its value of a token is that "
        "of the state which the token leads to. KL by the k3 estimator.",
        when_to_use="Scored answers at hand, and no memory or time for a critic and a reward model in the loop.",
        seed=59,
        family="A1",
        nearest="ppo",
        policies=("language", "tabular"),
    ),
    credit=FrozenValues(),
    objective=(Term("policy", ClippedSurrogate(0.2, 0.2), TokenMean()),),
    constraint=(Term("kl", K3Loss(), TokenMean(), weight=0.01),),
    update=GradientSteps({"policy": AdamW()}, epochs=4, minibatches=4),
    roles={"old": Role(when="collected"), "reference": Role("reference", when="collected")},
    models={"reference": ppo.models["reference"], "guide": Critic()},
)

dvpo_values = replace(
    dvpo,
    about=replace(dvpo.about, key="dvpo_values", equation="temporal differences of the global value model"),
    sampling=Recorded(),
    credit=Nothing(),
    objective=(Term("guide", SarsaError(), TokenMean(), trains="guide"),),
    constraint=(),
    update=GradientSteps({"guide": AdamW(1e-5)}),
    roles={},
    models={"guide": Critic()},
)
"""The value model alone, on recorded rows: a stage of a program."""

_WORLD = {"selection.count": 8, "update.minibatches": 2}

claim = Claim(
    statement="With a value model that was fitted to recorded answers and frozen, PPO learns more from as few fresh "
    "rows as with a critic that begins with them.",
    source="arXiv 2502.16944, sections 4.2 and 4.3 (performance and convergence against PPO); specification 59",
    experiment="chained_symbols",
    observable="expected share of right symbols, mean over rounds, exact",
    higher_is_better=True,
    smallest_effect=0.03,
    treated=Arm("dvpo", {**_WORLD, "constraint.kl.weight": 0.0}, {"first": "dvpo:dvpo_values", "warm": 80}),
    baseline=Arm("ppo", {**_WORLD, "constraint.kl.weight": 0.0, "update.optimizers.critic.learning_rate": 0.05}),
    rounds=30,
    tuning=Tuning("update.optimizers.policy.learning_rate", (0.03, 0.1)),
    scope="Strings of 10 of 4 symbols, each paid by itself; which one is right depends on the one before; tables. The "
    "value model has read 640 scored rows of a uniform policy, which are not counted.",
)
