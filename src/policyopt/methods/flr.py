"""FLR: follow-up likelihood as reward (arXiv 2409.13948).

FLR(x, y) = mean_{f in F+} l(f | x, y) - mean_{f in F-} l(f | x, y),  l = mean_t log M(f_t | x, y, f_<t)
the best of K samples against the worst by FLR, then DPO
"""

from dataclasses import replace

from policyopt.claim import Arm, Claim
from policyopt.compose import About, Copy, Given
from policyopt.methods.dpo import dpo_online
from policyopt.methods.sft import sft
from policyopt.reward.follow_ups import FollowUpLikelihood
from policyopt.sampling.samplers import Group

flr = replace(
    dpo_online,
    about=About(
        key="flr",
        title="Aligning Language Models Using Follow-up Likelihood as Reward Signal",
        paper="arXiv 2409.13948",
        equation="follow-up likelihood reward; preference mining",
        mechanism="What users say next tells whether they were pleased. Fixed lists of pleased and displeased "
        "follow-ups are appended to a dialogue, and how much likelier a language model finds the former is the reward. "
        "It ranks the policy's own samples, and the best and the worst of each prompt make a pair for DPO.",
        departures="instantiation: difference of the two means; the released scripts write both lists and average a "
        "logit of each token. Lists of follow-ups are the world's. `flr_user` trains the model of users on dialogues.",
        when_to_use="Dialogues with users' reactions, and no preference labels.",
        seed=253,
        family="B1",
        nearest="dpo",
        policies=("language",),
    ),
    sampling=Group(size=8),
    reward=FollowUpLikelihood(),
    models={"reference": Copy(), "user": Given("a language model of dialogues with users' reactions")},
)

flr_user = replace(
    sft,
    about=replace(
        flr.about,
        key="flr_user",
        equation="language model of feedback",
        nearest="sft",
        policies=("language", "tabular"),
    ),
)
"""The model of users, from recorded dialogues."""

_WORLD = {"selection.count": 16, "update.learning_rate": 0.05, "update.schedule": "constant"}

claim = Claim(
    statement="A model of dialogues with reactions, and no label of any answer, makes pairs from which DPO learns to "
    "answer rightly.",
    source="arXiv 2409.13948, section 5 (preference mining without labels); specification 253",
    experiment="reactions_of_users",
    observable="probability of the right answer after training, mean over questions, exact",
    higher_is_better=True,
    smallest_effect=0.15,
    treated=Arm("flr", _WORLD),
    baseline=Arm("flr", _WORLD, {"dialogues": 0}, label="a model of users that has read no dialogue"),
    rounds=60,
    scope="16 questions of 8 answers in tables; users react wrongly in a fifth of 4000 dialogues, of whose answers 39% "
    "are right. A development seed was looked at before.",
)
