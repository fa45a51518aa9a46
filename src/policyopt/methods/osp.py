"""OSP: online self-preferring (arXiv 2405.14103): soft strengths of preference in the pair loss.

p_ij = (P(i | x, i, j) + P(i | x, j, i)) / 2;  L = -p log sigma(beta D_ij) - (1 - p) log sigma(-beta D_ij)
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import Term
from policyopt.feedback.lists import SoftTournament
from policyopt.methods.dpo import dpo
from policyopt.objective.listwise import PairsOfStated, listed
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import PairedRows, Selection
from policyopt.update.averaging import RowMean

osp = replace(
    dpo,
    about=replace(
        dpo.about,
        key="osp",
        title="Online Self-Preferring Language Models",
        paper="arXiv 2405.14103",
        equation="soft-preference cross-entropy loss, ranked pairing",
        mechanism="The model judges its own samples, and the judgement stays a strength of preference: the probability "
        "of the verdict over both orders. Its cross-entropy with the implicit preference has a finite minimum for "
        "every pair, so near ties are not driven apart.",
        departures="Strengths come from the world's comparisons (`prefer`); a judge that is the policy itself is such "
        "a world. Ranked pairing: every pair of the sorted group.",
        when_to_use="A judge whose probabilities mean something, online.",
        seed=215,
        nearest="dpo",
    ),
    selection=Selection(count=16, rows=PairedRows()),
    sampling=Group(size=4),
    feedback=SoftTournament(),
    objective=(
        Term(
            "preference",
            PairsOfStated(beta=0.1, soft=True, averaged=True),
            RowMean(),
            mask=listed,
            couples=("pair",),
        ),
    ),
)

_WORLD = {
    "selection.count": 8,
    "sampling.size": 6,
    "update.schedule": "constant",
    "update.learning_rate": 0.05,
    "update.clip_norm": None,
    "objective.beta": 0.5,
}

claim = Claim(
    statement="Soft strengths leave a pair that is nearly tied at the margin of its probability; with hard labels the "
    "margin keeps growing.",
    source="arXiv 2405.14103, section 3 (soft-preference cross-entropy); specification 215",
    experiment="nearly_tied",
    observable="|beta margin of the tied pair - logit(0.55)|, exact",
    higher_is_better=False,
    smallest_effect=0.2,
    threshold=0.2,
    treated=Arm("osp", _WORLD),
    baseline=Arm("osp", {**_WORLD, "feedback.hard": True}, label="hard labels"),
    rounds=150,
    scope="One context, 6 arms, a table; the judge is the Bradley-Terry model of the rewards, not the policy.",
)
