"""iTool: iterative reinforced fine-tuning for tool use (arXiv 2501.09766).

`itool_warmup`: likelihood of easy, middle and hard calls in turn ;  then, round by round,
d(x) = exp(-mean_t log pi(y*_t | x)), the top share of tasks by d is searched by PUCT, Q the mean reward of rollouts,
R the mean of component scores ;  y_w, y_l = best and worst child of every node that was expanded
L = -log sigma(b mean_t log pi(y_w) - b mean_t log pi(y_l) - g)
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Nothing
from policyopt.methods.dpo import dpo_online, simpo
from policyopt.methods.sft import sft
from policyopt.reward.checks import Checked
from policyopt.sampling.siblings import RolloutSiblings
from policyopt.selection.deficient import DeficientTasks, Perplexities
from policyopt.selection.tasks import PairedRows, Selection

itool = replace(
    dpo_online,
    about=About(
        key="itool",
        title="Boosting Tool Use of Large Language Models via Iterative Reinforced Fine-Tuning",
        paper="arXiv 2501.09766",
        equation="section 3 (warm-up, tree search on deficient data, preference optimization)",
        mechanism="Fine-tuning on calls of tools stops helping where single arguments go wrong. Tasks that the policy "
        "finds surprising are searched; siblings that share all before them and lead to better and worse calls become "
        "pairs, so that a preference points at the argument. Which tasks are deficient is asked again every round.",
        departures="instantiation: perplexity as deficiency, the top 0.3, b = 2, g = 1, equal weights of components "
        "(`world.checks`); the paper gives no numbers. A fragment is a fixed number of tokens. SimPO has no reference; "
        "for DPO give `objective.anchor`.",
        when_to_use="Structured answers whose parts can be checked one by one, after supervised fine-tuning.",
        seed=50,
        family="B1",
        nearest="mcts_dpo",
        policies=("language", "tabular"),
    ),
    selection=Selection(count=16, tasks=DeficientTasks(), rows=PairedRows()),
    sampling=RolloutSiblings(length_power=0.0, depth=8, iterations=8),
    reward=Checked(),
    feedback=Nothing(),
    objective=simpo.objective,
    roles={},
    models={},
    before=(Perplexities(),),
)

itool_warmup = replace(
    sft,
    about=replace(itool.about, key="itool_warmup", equation="section 3.1 (easy to hard)", nearest="sft"),
)
"""One stage of three, on easy, middle and hard calls in turn (`selection.tasks`: of_kinds, or data of its own)."""

_STEPS = {"selection.count": 16, "update.learning_rate": 0.15, "update.clip_norm": None, "update.schedule": "constant"}

claim = Claim(
    statement="After the warm-up, rounds of search and repair halve the rate of wrong argument values; as many more "
    "updates of supervised fine-tuning on the same demonstrations do not.",
    source="arXiv 2501.09766, section 4 (against continued fine-tuning); specification 50",
    experiment="calls_of_two_tools",
    observable="updates after the warm-up until at most half as many argument values are wrong (all if never)",
    higher_is_better=False,
    smallest_effect=10.0,
    treated=Arm(
        "itool",
        {**_STEPS, "sampling.steps": 1, "sampling.iterations": 6, "sampling.branching": (4,), "sampling.margin": 0.1},
    ),
    baseline=Arm("sft", _STEPS, label="continued sft"),
    rounds=60,
    budget="cost",
    scope="24 calls of two tools with a value each, of 6 names and values, in a table; a third of the demonstrated "
    "values are wrong, which likelihood copies; deficiency is asked of right calls. Updates are counted, not rows: the "
    "search makes rows of its own. A development seed was looked at before.",
)
