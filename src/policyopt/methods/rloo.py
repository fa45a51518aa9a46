"""RLOO: REINFORCE leave-one-out (arXiv 2402.14740, "Back to Basics").

R'_i = R_i - beta sum_t (log pi_old - log pi_ref)
A_i  = R'_i - mean_{j != i} R'_j ;   L = -mean_i min(w_i A_i, clip(w_i, 1 - e, 1 + e) A_i),  w_i = prod_t ratio_t
"""

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Chain, Copy, Method, Role, Term, trained_rows
from policyopt.credit.groups import LeaveOneOut
from policyopt.objective.surrogates import ProductSequenceSurrogate
from policyopt.reward.parts import ReferencePenalty, Verified
from policyopt.sampling.samplers import Group
from policyopt.selection.tasks import Selection
from policyopt.update.averaging import RowMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import AdamW

rloo = Method(
    about=About(
        key="rloo",
        title="Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs",
        paper="arXiv 2402.14740",
        equation="leave-one-out estimator, KL-shaped reward",
        mechanism="The whole response is one action. Each sample is compared with the mean reward of the other "
        "samples of its prompt: an unbiased baseline without a critic. The KL to the reference is part of the reward.",
        departures="The clipped product ratio of the reference implementation is used, so that several updates per "
        "batch are allowed; on the first update its gradient equals REINFORCE's.",
        when_to_use="Verifiable rewards, few samples a prompt, prompts of different difficulty; no critic.",
        seed=121,
        family="A1",
        nearest="grpo",
    ),
    selection=Selection(count=32),
    sampling=Group(size=4),
    reward=Chain((Verified(), ReferencePenalty(beta=0.03))),
    credit=LeaveOneOut(),
    objective=(Term("policy", ProductSequenceSurrogate(0.2, 0.2), RowMean(), mask=trained_rows),),
    update=GradientSteps({"policy": AdamW()}),
    roles={"old": Role(when="collected"), "reference": Role("reference", when="collected")},
    models={"reference": Copy()},
)

claim = Claim(
    statement="Where tasks differ in value, leave-one-out baselines at least halve the variance of a task's gradient "
    "against one moving average.",
    source="arXiv 2402.14740, section 2 (variance of the estimators); specification 121",
    experiment="bandit_gradients",
    observable="ln of the variance of a task's gradient over batches",
    higher_is_better=False,
    smallest_effect=0.69,
    treated=Arm("rloo", {"selection.count": 16}),
    baseline=Arm("reinforce", {"selection.count": 16}),
    rounds=440,
    scope="Gradients at a fixed policy, nothing is trained or tuned. With a single task the moving average wins.",
)
