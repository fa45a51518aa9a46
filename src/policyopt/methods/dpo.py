"""DPO: direct preference optimization (arXiv 2305.18290, eq. 7), from recorded pairs and, as `dpo_online`, from the
policy's own samples ranked by the reward.

    L = -log sigma( beta (rho(y_w) - rho(y_l)) ),  rho(y) = sum_t (log pi - log pi_ref)

Losses of other papers on the same pairs are variants (`dpo:ipo`, `dpo:kto` ...): another link, margin or statement.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Copy, Loss, Method, Role, Term, chosen_rows
from policyopt.feedback.preferences import BestVersusWorst
from policyopt.objective.ordered import OddsPreference, SortedMargins, SortedSides
from policyopt.objective.pairwise import PairPreference, RowPreference, chosen_steps, sided_rows
from policyopt.objective.preference import PairLogistic
from policyopt.objective.supervised import NegativeLogLikelihood
from policyopt.reward.parts import Verified
from policyopt.sampling.samplers import Group, RecordedPairs
from policyopt.selection.tasks import PairedRows, Selection
from policyopt.update.averaging import RowMean, TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW, Constant

dpo = Method(
    about=About(
        key="dpo",
        title="Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
        paper="arXiv 2305.18290",
        equation="eq. 7",
        mechanism="The policy is its own reward model: beta times its log-ratio to the reference is fitted to "
        "preferences by logistic regression on pairs. No sampling, no reward model.",
        departures="None for recorded pairs. dpo_online pairs the best with the worst of a fresh group and drops "
        "groups of equal rewards.",
        when_to_use="Preference data and no verifier; dpo_online when there is one and pairs are cheap.",
        seed=27,
        family="B1",
    ),
    selection=Selection(count=64),
    sampling=RecordedPairs(),
    objective=(Term("preference", PairLogistic(beta=0.1), RowMean(), mask=chosen_rows, couples=("pair",)),),
    update=GradientSteps({"policy": AdamW(schedule=Constant(warmup=150))}),
    roles={"reference": Role("reference", when="collected")},
    models={"reference": Copy()},
)

dpo_online = replace(
    dpo,
    about=replace(dpo.about, key="dpo_online", title="Direct Preference Optimization on the policy's own samples"),
    selection=Selection(count=16, rows=PairedRows()),
    sampling=Group(size=4),
    reward=Verified(),
    feedback=BestVersusWorst(),
)


def _on_pairs(key: str, title: str, paper: str, loss: Loss, departures: str = "None for recorded pairs.") -> Method:
    """The same pairs under another loss. Losses of single rows take chosen rows for good ones, others for bad ones."""
    rows = sided_rows if isinstance(loss, RowPreference | SortedSides) else chosen_rows
    term = replace(dpo.objective[0], loss=loss, mask=rows)
    named = replace(dpo.about, key=key, title=title, paper=paper, departures=departures)
    about = replace(named, equation="the loss", seed=None, nearest="dpo")
    bare = {} if loss.roles else {"roles": {}, "models": {}}
    return replace(dpo, about=about, objective=(term,), **bare)


ipo = _on_pairs(
    "ipo", "A General Theoretical Paradigm (identity preference)", "arXiv 2310.12036", PairPreference(link="squared")
)
ipo_mean = _on_pairs(
    "ipo_mean",
    "IPO by means over steps (TRL's form)",
    "arXiv 2310.12036",
    PairPreference(link="squared", mean=True),
    "Means over a row's steps in place of the paper's sums.",
)
slic = _on_pairs(
    "slic",
    "SLiC-HF: sequence likelihood calibration",
    "arXiv 2305.10425",
    PairPreference(link="hinge"),
    "Log-ratios to the reference, as in TRL and RSO (hinge-norm); the paper's hinge is of log-probabilities alone "
    "(anchor none), beside a likelihood of the supervised targets.",
)
cdpo = _on_pairs("cdpo", "Conservative DPO (smoothed labels)", "Mitchell (2023)", PairPreference(wrong=0.1))
exo = _on_pairs(
    "exo", "Towards Efficient Exact Optimization (EXO)", "arXiv 2402.00856", PairPreference(link="exo", wrong=1e-3)
)
nca = _on_pairs("nca", "Noise Contrastive Alignment, of pairs", "arXiv 2402.05369", PairPreference(link="nca"))
apo_zero = _on_pairs(
    "apo_zero", "Anchored Preference Optimization", "arXiv 2408.06266", PairPreference(link="apo_zero")
)
apo_down = _on_pairs(
    "apo_down", "Anchored Preference Optimization, downwards", "arXiv 2408.06266", PairPreference(link="apo_down")
)
discopop = _on_pairs(
    "discopop", "Discovered Preference Optimization", "arXiv 2406.08414", PairPreference(0.05, link="discovered")
)
sppo_hard = _on_pairs(
    "sppo_hard",
    "Self-Play Preference Optimization, hard labels",
    "arXiv 2405.00675",
    PairPreference(1e-3, link="sppo"),
    "A label stands for a win rate of 1 (released code); the paper estimates win rates from several own samples.",
)
aot = _on_pairs(
    "aot", "Distributional Preference Alignment of LLMs via Optimal Transport", "arXiv 2406.05882", SortedMargins()
)
aot_unpaired = _on_pairs(
    "aot_unpaired",
    "AOT, without pairs",
    "arXiv 2406.05882",
    SortedSides(column="rank"),
    "The two samples are the chosen and the rejected rows of pairs.",
)
lndpo = _on_pairs("lndpo", "Tulu 3: length-normalised DPO", "arXiv 2411.15124", PairPreference(5.0, mean=True))
fdpo = _on_pairs("fdpo", "Beyond Reverse KL: f-DPO", "arXiv 2309.16240", PairPreference(divergence="jensen_shannon"))
fdpo_forward_kl = _on_pairs(
    "fdpo_forward_kl", "f-DPO with the forward KL", "arXiv 2309.16240", PairPreference(divergence="forward_kl")
)
simpo = _on_pairs(
    "simpo",
    "SimPO: Simple Preference Optimization with a Reference-Free Reward",
    "arXiv 2405.14734",
    PairPreference(2.0, None, mean=True, target=1.0),
)
cpo = _on_pairs(
    "cpo",
    "Contrastive Preference Optimization",
    "arXiv 2401.08417",
    PairPreference(anchor=None),
    "The likelihood of chosen rows is a mean over their steps, as in the released code; the paper writes a sum.",
)
cpo = replace(
    cpo,
    objective=(
        *cpo.objective,
        Term("imitation", NegativeLogLikelihood(), TokenMean(), mask=chosen_steps, couples=("pair",)),
    ),
)
orpo = _on_pairs(
    "orpo",
    "ORPO: Monolithic Preference Optimization",
    "arXiv 2403.07691",
    OddsPreference(),
    "The likelihood of chosen rows is a mean over all their steps together.",
)
orpo = replace(orpo, objective=(replace(orpo.objective[0], weight=0.1), cpo.objective[1]))
bco = _on_pairs(
    "bco",
    "Binary Classifier Optimization",
    "arXiv 2404.04656",
    RowPreference(column="rank", balance=True),
    "The point is of the optimiser step, the paper's a running mean over batches; no ratio of densities weighs rows of "
    "bad prompts.",
)
kto = _on_pairs(
    "kto",
    "KTO: Kahneman-Tversky optimization",
    "arXiv 2402.01306",
    RowPreference(column="rank", link="kto"),
    "The point is the mean implicit reward of the optimiser step's own rows, not below 0; the paper estimates the "
    "divergence from answers to other prompts. Of pairs, the chosen row is the good one.",
)

_WORLD = {"selection.count": 1024, "update.schedule": "linear"}

claim = Claim(
    statement="DPO recovers pi_ref exp(r / beta) / Z from preferences; imitating the preferred answers does not.",
    source="arXiv 2305.18290, section 4; specification 27",
    experiment="preference_bandit",
    observable="total-variation distance to pi_ref exp(r / beta) / Z",
    higher_is_better=False,
    smallest_effect=0.03,
    threshold=0.03,
    treated=Arm("dpo", {**_WORLD, "objective.beta": 0.5}),
    baseline=Arm("sft", _WORLD, label="sft on the preferred answers"),
    rounds=200,
    tuning=Tuning("update.learning_rate", (0.03, 0.1, 0.3)),
    scope="The learning rates were raised once after a development seed, for both arms, before the run.",
)
