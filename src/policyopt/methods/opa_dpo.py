"""OPA-DPO: on-policy alignment before DPO (arXiv 2501.09695).

1. `opa_dpo_alignment`: L = -log pi(y_gt) - log pi(y_rev), y_rev the expert's edit of the policy's own answer
2. from there, and with that as reference: rho(y) = sum_t w_t (log pi - log pi_opa), w the severity of what was edited
   L = -log sigma(beta (rho_1(y_gt) - rho_1(y_gen))) - log sigma(beta (rho(y_rev) - rho(y_gen)))
       - c_n sum_{gt, rev} log sigma(beta rho_1(y) - delta)
   `opa_dpo_images` adds -c_i sum_{gt, rev} log sigma(beta (rho(y; v) - rho(y; v~))), v~ the masked input
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Role, Term, chosen_rows
from policyopt.feedback.contexts import MaskedContext
from policyopt.methods.dpo import dpo
from policyopt.methods.sft import sft
from policyopt.objective.contrasted import ContextPreference
from policyopt.objective.pairwise import PairPreference, RowPreference
from policyopt.sampling.samplers import RecordedPairs
from policyopt.update.averaging import RowMean, SequenceSum
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW


def _of_pairs(name: str, loss: PairPreference | RowPreference | ContextPreference, weight: float) -> Term:
    """A sum over both kinds of pairs, of which a data set holds as many: twice their mean."""
    return Term(name, loss, RowMean(), mask=chosen_rows, weight=2 * weight, couples=("pair",))


opa_dpo = replace(
    dpo,
    about=About(
        key="opa_dpo",
        title="Mitigating Hallucinations in Large Vision-Language Models via DPO: On-Policy Data Hold the Key",
        paper="arXiv 2501.09695",
        equation="stage 2 (on-policy DPO with severity weights and anchor); released code zhyang2226/OPA-DPO",
        mechanism="DPO can not lift an answer that its reference almost never gives. The policy is first fine-tuned on "
        "the answers that are to win, and what comes out is both start and reference of DPO: the expert's answers are "
        "then on-policy. Steps weigh as much as what the expert changed there was wrong.",
        departures="The loss is of sums over a row, where the released code takes the logistic of every padded "
        "position; the anchor raises both chosen answers, where a sign in that code lowers the edited one (taken for "
        "a slip). `severity` is 1 in pairs with y_gt. Low-rank adapters, images and the expert are not here.",
        when_to_use="Preferred answers by an expert or a stronger model, far from what the policy writes.",
        seed=209,
        family="B1",
        nearest="dpo",
        policies=("language", "tabular"),
    ),
    sampling=RecordedPairs(columns=("severity",)),
    objective=(
        _of_pairs("preference", PairPreference(0.1, by="severity"), 1.0),
        _of_pairs("anchor", RowPreference(0.1, column="rank"), 1.0),
    ),
)

opa_dpo_alignment = replace(
    sft,
    about=replace(opa_dpo.about, key="opa_dpo_alignment", equation="stage 1 (on-policy alignment)", nearest="sft"),
    # The mean over rows y_gt and y_rev of their sums, times two.
    objective=(replace(sft.objective[0], average=SequenceSum(1.0), weight=2.0),),
    update=GradientSteps({"policy": AdamW(2e-5)}),
)

opa_dpo_images = replace(
    opa_dpo,
    about=replace(opa_dpo.about, key="opa_dpo_images", equation="stage 2 with the image term", policies=("language",)),
    feedback=MaskedContext(share=0.3, patch=1),
    objective=(*opa_dpo.objective, _of_pairs("image", ContextPreference(0.1, by="severity"), 0.2)),
    roles={
        **opa_dpo.roles,
        "blind": Role(context="masked", grad=True),
        "blind_reference": Role("reference", context="masked", when="collected"),
    },
)

_WORLD = {"selection.count": 512, "update.learning_rate": 0.1, "update.clip_norm": None}

claim = Claim(
    statement="Where the expert's answers are one in a million for the reference, DPO after on-policy alignment gives "
    "them; DPO alone does not.",
    source="arXiv 2501.09695, sections 3 and 5 (against DPO without alignment); specification 209",
    experiment="unlikely_experts",
    observable="probability of the expert's answers after training, mean over contexts, exact",
    higher_is_better=True,
    smallest_effect=0.3,
    threshold=0.5,
    treated=Arm("opa_dpo", _WORLD, {"first": "opa_dpo:opa_dpo_alignment"}),
    baseline=Arm("dpo", _WORLD),
    rounds=200,
    scope="8 contexts of 20 own and 2 expert answers in a table; labels by Bradley-Terry with a gap of 1, so that the "
    "optimum of DPO is known (a probability of 0.04); beta 0.1. Half of the treated rounds are alignment.",
)
