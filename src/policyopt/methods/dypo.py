"""DYPO: dynamic policy optimization (arXiv 2604.08926). Prompts are routed by their own rows.

all wrong:  gamma (-mean_t log pi(y)), y the trace of a teacher drawn uniformly
mixed:      alpha L_GRPO + (1 - alpha) mean_{s right, f wrong} -log sigma(b (rho(s) - rho(f)))
all right:  nothing;     rho = sum_t (log pi - log pi_ref);  each kind is averaged over its own prompts
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Copy, Role, Term
from policyopt.credit.given import OfOwnRows
from policyopt.methods.grpo import grpo
from policyopt.objective.implicit import RightWrongPreference
from policyopt.objective.supervised import NegativeLogLikelihood
from policyopt.objective.surrogates import ClippedSurrogate
from policyopt.sampling.beside import GroupAndRecorded, given_steps, written_rows, written_steps
from policyopt.selection.routed import RoutedRows
from policyopt.update.averaging import SequenceMean
from policyopt.update.grouped import GroupMean

dypo = replace(
    grpo,
    about=About(
        key="dypo",
        title="Bridging SFT and RL: Dynamic Policy Optimization for Robust Reasoning",
        paper="arXiv 2604.08926",
        equation="section 3 (routing, group alignment loss, multi-teacher distillation)",
        mechanism="Prompts that own attempts never solve are taught by a trace of one of several teachers, prompts "
        "that are solved now and then by GRPO and a preference of every right over every wrong attempt, whose bounded "
        "weights fade as they are told apart; solved prompts are left. The routing is redone at every step.",
        departures="A round's prompts are updated on together, where the paper waits for a full batch of each kind. "
        "The std divides by n - 1. A world that records one answer of a task has one teacher. Training code was not "
        "published; sft is normalised by length.",
        when_to_use="Prompts of very different difficulty and demonstrations for the hard ones.",
        seed=249,
        family="A1",
        nearest="grpo",
    ),
    selection=replace(grpo.selection, rows=RoutedRows()),
    sampling=GroupAndRecorded(size=8, teachers=2),
    credit=OfOwnRows(),
    objective=(
        Term("policy", ClippedSurrogate(0.2, 0.2), SequenceMean(), mask=written_steps, weight=0.5),
        Term("alignment", RightWrongPreference(), GroupMean(), mask=written_rows, weight=0.5, couples=("group",)),
        Term("teacher", NegativeLogLikelihood(), SequenceMean(), mask=given_steps),
    ),
    constraint=(),
    roles={"old": Role(when="collected"), "reference": Role("reference", when="collected")},
    models={"reference": Copy()},
)

_WORLD = {"selection.count": 16, "update.clip_norm": None, "update.learning_rate": 0.1}

claim = Claim(
    statement="Where half of the prompts are never solved by the first policy, DYPO ends with a higher success than "
    "GRPO on as many rows, although a quarter of the teachers' traces is wrong.",
    source="arXiv 2604.08926, section 4.2 (against GRPO and SFT); specification 249",
    experiment="taught_prompts",
    observable="probability of a right choice after training, mean over prompts, exact",
    higher_is_better=True,
    smallest_effect=0.1,
    treated=Arm("dypo", {**_WORLD, "sampling.size": 8}),
    baseline=Arm("grpo", {**_WORLD, "sampling.size": 9, "constraint": ()}, label="grpo without KL"),
    rounds=60,
    scope="Tables, so that prompts share nothing and nothing can be forgotten. Supervised learning on the same traces "
    "is bounded by their share of right ones, which the notes give; the variance of gradients is not measured.",
)
