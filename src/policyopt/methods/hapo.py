"""HAPO: heterogeneous adaptive policy optimization (arXiv 2509.16591, eq. 3 to 12).

h = (log H - Q_0.8) / rms(log H - Q_0.8), scaled to -1..1 ;  temperature 1 + tau h ;  A over the steps of the group
A <- A (1 + b h) for unsure steps outside the middle of the clip range and sure ones inside it
clip range (e (1 + a max(-h, 0)), e (1 + a max(h, 0))) ;  dual clip, mean over steps
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Chain, Role, Term
from policyopt.credit.entropies import EntropyScores, StepEntropies
from policyopt.credit.tokens import StepStandardised
from policyopt.methods.grpo import grpo
from policyopt.objective.clipping import ClipByEntropy
from policyopt.objective.heterogeneous import HeterogeneousSurrogate
from policyopt.policies.heated import HeatedSampler
from policyopt.sampling.collected import GroupBy
from policyopt.selection.tasks import InformativeGroups, Selection
from policyopt.update.averaging import TokenMean
from policyopt.update.heating import UpdateHeat

hapo = replace(
    grpo,
    about=About(
        key="hapo",
        title="From Uniform to Heterogeneous: Tailoring Policy Optimization to Every Token's Nature",
        paper="arXiv 2509.16591",
        equation="eq. 3 to 12 (entropy score, temperature, token-level average, redistribution, clip ranges)",
        mechanism="One score of how unsure each step was serves four places: unsure steps are sampled a little hotter, "
        "weigh more once their ratio has moved, and may become more likely by more; sure ones may become less likely "
        "by more. Advantages are standardised over steps, as the loss is averaged.",
        departures="Negative scores are divided by |min h|, as the text says; the release divides by min h, which "
        "turns their sign. Groups of equal rewards are left out, not drawn again. Old log-probabilities are the "
        "policy's at the base temperature, as in the release.",
        when_to_use="Verifiable rewards on long answers whose few uncertain tokens decide.",
        seed=143,
        family="A1",
        nearest="dapo",
        policies=("language", "tabular"),
    ),
    selection=Selection(count=32, rows=InformativeGroups()),
    sampling=GroupBy(size=16, model="heated"),
    credit=Chain((StepStandardised(), StepEntropies(), EntropyScores(quantile=0.8))),
    objective=(
        Term(
            "policy",
            HeterogeneousSurrogate(ClipByEntropy(0.2, 1.0, "low"), ClipByEntropy(0.2, 1.0, "high"), dual_clip=10.0),
            TokenMean(),
        ),
    ),
    constraint=(),
    roles={"old": Role(when="collected")},
    models={"heated": HeatedSampler(0.05)},
    after=(UpdateHeat("heated", 0.8),),
)

_WORLD = {"selection.count": 4, "sampling.size": 16, "update.minibatches": 2, "update.epochs": 2}

claim = Claim(
    statement="Where one symbol of a row is a choice between right ways and the rest is copied, HAPO keeps more "
    "entropy at the choice than GRPO.",
    source="arXiv 2509.16591, section 4 (entropy of high- and low-entropy tokens); specification 143",
    experiment="forks_and_copies",
    observable="entropy of the fork, nats, exact, at the first round with success of at least 0.9 (or at the end)",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=Arm("hapo", _WORLD),
    baseline=Arm("grpo", {**_WORLD, "constraint.kl.weight": 0.0}),
    rounds=40,
    tuning=Tuning("update.learning_rate", (0.03, 0.1)),
    scope="Strings of 8 symbols and tables; tuned for success after training.",
)
