"""Behaviour cloning on recorded transitions (Pomerleau, Neural Computation 3, 1991).

bc:         L = -mean log pi(a|s)
bc_squared: L = mean (mu(s) - a)^2      for policies without a density
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Method, Term
from policyopt.constraint.cloning import CloneSteps
from policyopt.objective.supervised import NegativeLogLikelihood
from policyopt.sampling.samplers import Recorded
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

bc = Method(
    about=About(
        key="bc",
        title="Efficient Training of Artificial Neural Networks for Autonomous Navigation (behaviour cloning)",
        paper="Pomerleau, Neural Computation 3 (1991) 88-97",
        equation="maximum likelihood",
        mechanism="Raise the likelihood of recorded actions. The result is as good as who acted, at best.",
        departures="A round is an epoch's piece: 25,600 transitions in 100 minibatches.",
        when_to_use="Recordings of someone good, no rewards; the measure that offline methods have to beat.",
        nearest="sft",
        policies=("control",),
    ),
    selection=Selection(count=25_600),
    sampling=Recorded(),
    objective=(Term("likelihood", NegativeLogLikelihood(), TokenMean()),),
    update=GradientSteps({"policy": AdamW(learning_rate=3e-4)}, minibatches=100, unit="step", clip_norm=None),
)

bc_squared = replace(
    bc,
    about=replace(bc.about, key="bc_squared", when_to_use="As bc, for policies with head=deterministic."),
    objective=(Term("clone", CloneSteps(), TokenMean()),),
)

claim = Claim(
    statement="Imitating recordings of someone good teaches more than as many episodes of one's own.",
    source="Common practice; Pomerleau (1991)",
    experiment="recordings_or_own",
    observable="share of the attainable return after training",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=Arm("bc", {"selection.count": 20, "update.minibatches": 5}),
    baseline=Arm("reinforce", {"selection.count": 20, "sampling.size": 1, "credit.gamma": 0.9}),
    rounds=20,
    tuning=Tuning("update.optimizers.policy.learning_rate", (0.03, 0.1, 0.3)),
    scope="The recordings are of someone good: nine actions of ten are the best ones.",
)
