"""Supervised fine-tuning on recorded rows: the usual policy initialization.

L = -(1 / sum_i |o_i|) sum_i sum_t log pi(o_it)
"""

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Method, Term
from policyopt.objective.supervised import NegativeLogLikelihood
from policyopt.sampling.samplers import Recorded
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

sft = Method(
    about=About(
        key="sft",
        title="Supervised fine-tuning (behaviour cloning)",
        paper="Pomerleau, Neural Computation 3 (1991) 88-97; standard cross-entropy",
        equation="maximum likelihood",
        mechanism="Raise the likelihood of demonstrated steps. What the demonstrators do wrong is learned as well.",
        departures="None.",
        when_to_use="To give a policy the form of an answer before reinforcement learning.",
    ),
    selection=Selection(count=64),
    sampling=Recorded(),
    objective=(Term("likelihood", NegativeLogLikelihood(), TokenMean()),),
    update=GradientSteps({"policy": AdamW(learning_rate=1e-5)}),
)

claim = Claim(
    statement="Where success is rare, imitating faulty demonstrations beats reinforce on as many rows of its own.",
    source="Common practice (cold start before reinforcement learning)",
    experiment="rare_success",
    observable="probability of an entirely right string after training",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=Arm("sft"),
    baseline=Arm("reinforce", {"selection.count": 16}),
    rounds=60,
    tuning=Tuning("update.learning_rate", (0.03, 0.1, 0.3)),
)
