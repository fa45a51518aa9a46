"""On-policy or suboptimal data? A controlled comparison of fine-tuning from preferences (arXiv 2404.14367).

    grad = sum_y c(y) grad log pi(y | x),  y ~ pi_theta or data ;  best of n: c(y) = 1[y = argmax_i R(y_i)]

The method is best-of-n imitation on the policy's own samples; `policyopt study suboptimal_onpolicy` has the others.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Study
from policyopt.compose import About, Copy, Term
from policyopt.methods.dpo import dpo_online
from policyopt.objective.pairwise import chosen_steps
from policyopt.objective.supervised import NegativeLogLikelihood
from policyopt.sampling.samplers import Group
from policyopt.update.averaging import TokenMean

suboptimal_onpolicy = replace(
    dpo_online,
    about=About(
        key="suboptimal_onpolicy",
        title="Preference Fine-Tuning of LLMs Should Leverage Suboptimal, On-Policy Data",
        paper="arXiv 2404.14367",
        equation="the unified update of section 3, with best-of-n weights",
        mechanism="A measurement, not a method of its own: who writes the samples (the policy as it is, or as it "
        "began), whether any likelihood is pushed down, and how often samples are used again. The composition imitates "
        "the best of n own samples; with `sampling.model=reference` the samples are those of the first policy.",
        departures="A study of bandits with exact rewards. No reuse of samples: one update a round.",
        when_to_use="To see whether a task needs on-policy samples: it does where good answers are rare at first.",
        seed=141,
        family="B1",
        nearest="dpo",
    ),
    sampling=Group(size=10),
    objective=(Term("imitation", NegativeLogLikelihood(), TokenMean(), mask=chosen_steps, couples=("pair",)),),
    roles={},
    models={"reference": Copy()},
)

_WORLD = {"selection.count": 8, "update.learning_rate": 0.05, "update.schedule": "constant"}
_OWN = Arm("suboptimal_onpolicy", _WORLD, label="best of 10, own samples")
_FIRST = replace(_OWN, overrides={**_WORLD, "sampling.model": "reference"}, label="best of 10, first policy's samples")
_PAIRS = {**_WORLD, "sampling.size": 10, "objective.beta": 0.5}

claim = Claim(
    statement="Where the reward peaks far from the reference, imitating the best of ten reaches a higher reward on the "
    "policy's own samples than on the reference's.",
    source="arXiv 2404.14367, sections 5.1 and 6; specification 141",
    experiment="relocated_peak",
    observable="expected reward of the policy, exact",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=_OWN,
    baseline=_FIRST,
    rounds=600,
    scope="One context of 100 bins, a policy of two smooth features around the reference; 600 Adam steps of 0.05 on 80 "
    "samples each.",
)

study = Study(
    question="Does learning need samples of its own, or likelihoods that are pushed down?",
    experiment="relocated_peak",
    observable="expected reward of the policy, exact",
    higher_is_better=True,
    smallest_effect=0.05,
    arms=tuple(
        replace(arm, given={"peak": peak}, label=f"{where} peak: {arm.name}")
        for where, peak in (("far", 80.0), ("near", 30.0))
        for arm in (
            _OWN,
            _FIRST,
            Arm("reinforce", {**_WORLD, "sampling.size": 10}, label="policy gradient, own samples"),
            Arm("dpo:dpo_online", _PAIRS, label="DPO of best and worst, own samples"),
            Arm("dpo:dpo_online", {**_PAIRS, "sampling.model": "reference"}, label="DPO, first policy's samples"),
        )
    ),
    rounds=600,
)
