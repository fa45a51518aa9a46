"""ReST-RL: optimised self-training and a value model for search (arXiv 2508.19576). First stage, ReST-GRPO:

keep x iff std(R_1 .. R_n) >= s_min ;   if R(o*) >= R_min: ceil(kappa m) prefixes of o* = argmax R,
P(j lines) ~ alpha^(j-1) ;   prompts {x} and {x + prefix}, A = (R - mean_g R) / std_g R on the continuation, clipped
loss `rest_rl_value`: L = mean (VM(s) - V(s))^2 over prefixes s of trees searched by lines, V(s) the mean of their
rollouts; `sampling.search.LineSearch(critic=...)` then decodes with VM.
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim, Tuning
from policyopt.compose import About, Critic, Nothing, Term
from policyopt.methods.grpo import grpo
from policyopt.objective.value import SquaredValueError
from policyopt.sampling.prefixes import PrefixGroup
from policyopt.sampling.search import LineSearch
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import GradientSteps
from policyopt.update.optimizers import SGD, AdamW

rest_rl = replace(
    grpo,
    about=About(
        key="rest_rl",
        title="ReST-RL: Achieving Accurate Code Reasoning of LLMs with Optimized Self-Training and Decoding",
        paper="arXiv 2508.19576",
        equation="section 3.1 (ReST-GRPO)",
        mechanism="GRPO learns nothing from prompts whose rewards are all alike. Such prompts are dropped, and "
        "beginnings of a prompt's best answer become prompts of their own, early beginnings more often: from there "
        "rewards differ.",
        departures="Finished prefixes are worth what they got and are not learned. The attempts that find the prefixes "
        "are the prompt's own group, so that selection and training share a round. Rewards for an end symbol and "
        "against trailing text are the world's. A line is a fixed number of steps.",
        when_to_use="Programs or proofs that are rarely right as a whole.",
        seed=11,
        family="A2",
        nearest="grpo",
        policies=("language",),
    ),
    sampling=PrefixGroup(),
    constraint=(),
    roles={"old": grpo.roles["old"]},
    models={},
)

rest_rl_value = replace(
    rest_rl,
    about=replace(rest_rl.about, key="rest_rl_value", equation="section 3.2 (VM-MCTS, value targets)", policies=()),
    sampling=LineSearch(iterations=100, exploration=0.2),
    credit=Nothing(),
    # The part halves the square.
    objective=(Term("value", SquaredValueError(), TokenMean(), weight=2.0, trains="critic"),),
    update=GradientSteps({"critic": AdamW(learning_rate=1e-5)}),
    roles={},
    models={"critic": Critic()},
)

_STRINGS = {"limit": 8, "decisive": 8, "choices": 2, "level": 0.9, "updates": True}
_STEPS = GradientSteps({"policy": SGD()}, clip_norm=None)
_WORLD = {"selection.count": 2, "sampling.temperature": 1.0, "update": _STEPS}

claim = Claim(
    statement="Beginnings of right answers as prompts reach success with fewer updates than the prompts alone.",
    source="arXiv 2508.19576, section 4; specification 11",
    experiment="tokens_until_success",
    observable="updates until the probability of success is 0.9",
    higher_is_better=False,
    smallest_effect=3.0,
    treated=Arm("rest_rl", {**_WORLD, "sampling.size": 16, "sampling.steps": 1}, _STRINGS),
    baseline=Arm("rest_rl", {**_WORLD, "sampling.size": 16, "sampling.share": 0.0}, _STRINGS, label="no prefixes"),
    rounds=50,
    tuning=Tuning("update.learning_rate", (16.0, 64.0)),
    budget="cost",
    scope="Strings of 8 of 2 symbols that must all be right, 1 in 256 at first; a table as policy moved by plain "
    "gradients (with Adam, a first form, both arms took equally many updates on every seed). Updates, not tokens, are "
    "counted: prefixes are rolled out besides (notes: steps a round).",
)
