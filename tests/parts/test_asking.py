"""What tasks of text can be asked about answers: prompts, rows and probabilities by hand."""

import json
import math
from dataclasses import replace

import pytest
import torch

from policyopt.engines.plain import generate
from policyopt.feedback.annotator import by_model
from policyopt.ops.sequences import on_last
from policyopt.policies.checkpoint import new_language
from policyopt.policies.tokenizer import character_tokenizer
from policyopt.recipe.base import RecipeError
from policyopt.recipe.language.ask import ByScores, PairOracle, preferring, solutions_to_judge
from policyopt.recipe.language.ask_sections import CritiqueSection, PreferSection
from policyopt.reward.follow_ups import FollowUpLikelihood
from policyopt.reward.refinement import RefinementReward
from policyopt.types import NO_TOKEN, Finish, Source
from policyopt.worlds.asking import Asking, Critiques, FollowUps, JudgePrompt
from policyopt.worlds.prompts import token_world
from policyopt.worlds.tasks import Entry, VerifierError
from policyopt.worlds.tokens import TokenWorld, WorldError
from policyopt.worlds.verdicts import Verdict, last_said
from support import close, context, method

pytestmark = pytest.mark.usefixtures("float64")

WORDS = character_tokenizer("".join(map(chr, range(32, 127))) + "\n")
CHAT = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
ENTRIES = [Entry("1+1=", None, "2"), Entry("2+3=", None, "5")]


def chats():
    words = character_tokenizer("".join(map(chr, range(32, 127))) + "\n")
    words.chat_template = CHAT
    return words


def world(entries=ENTRIES, tokenizer=WORDS, **asked) -> TokenWorld:
    positions = asked.pop("positions", None)
    made = token_world(entries, tokenizer, 12, positions=positions)
    return replace(made, asking=Asking(entries, tokenizer, **asked))


def answered(tokens: TokenWorld, texts, ids=(0, 1)):
    tasks = tokens.tasks(torch.tensor([*ids])).with_rows({"group": 10 + torch.tensor([*ids])})
    return tokens.complete(tasks, [WORDS(text).input_ids for text in texts], Source.POLICY)


def prompts(batch):
    return [WORDS.decode([t for t in row if t != NO_TOKEN]) for row in batch.context().tolist()]


def model(seed=3, positions=200):
    return new_language(len(WORDS), "llama", 16, 1, 2, seed, torch.float64, max_position_embeddings=positions)


# -- judges ------------------------------------------------------------------------------------------------------------
JUDGE = JudgePrompt("{prompt} A:{first} B:{second}?", "{prompt} mine {own} A:{first} B:{second}?")


def test_a_judge_reads_the_task_and_both_answers() -> None:
    tokens = world(judge=JUDGE)
    one, other = tokens.verdicts(answered(tokens, ["2", "{prompt}"]), answered(tokens, ["3", "5"]))
    assert prompts(one) == prompts(other) == ["1+1= A:2 B:3?", "2+3= A:{prompt} B:5?"]
    assert (tokens.texts(one), tokens.texts(other)) == (["A", "A"], ["B", "B"])
    assert one.row["group"].tolist() == [10, 11]
    own = answered(tokens, ["4", "6"])
    aided, _ = tokens.verdicts(answered(tokens, ["2", "5"]), answered(tokens, ["3", "4"]), own)
    assert prompts(aided) == ["1+1= mine 4 A:2 B:3?", "2+3= mine 6 A:5 B:4?"]


def test_a_judge_of_conversations_reads_the_last_message() -> None:
    told = ({"role": "system", "content": "Add."}, {"role": "user", "content": "1+1="})
    tokens = world([Entry(None, told, "2")], chats(), judge=JUDGE)
    one, _ = tokens.verdicts(answered(tokens, ["2"], [0]), answered(tokens, ["3"], [0]))
    assert WORDS.decode([t for t in one.context()[0].tolist() if t != NO_TOKEN], skip_special_tokens=True) == (
        "[system]Add.[user]1+1= A:2 B:3?[assistant]"
    )


def test_an_annotator_is_as_sure_as_its_model_of_the_two_verdicts() -> None:
    tokens, policy = world(judge=JUDGE), model()
    ctx = context(method(), {"policy": policy}, tokens)
    first, second = answered(tokens, ["2", "5"]), answered(tokens, ["3", "4"])
    chance = by_model(ctx, "policy")(first, second, None, torch.Generator())
    one, other = tokens.verdicts(first, second)
    for row in range(2):
        said = [math.exp(float(policy.score(rows).logp[row][rows.own[row]].sum().detach())) for rows in (one, other)]
        assert float(chance[row]) == pytest.approx(said[0] / sum(said))
    back = by_model(ctx, "policy")(second, first, None, torch.Generator())
    assert float((chance + back - 1).abs().max()) > 1e-4  # a taste for the place, which votes in both orders cancel


# -- preferences -------------------------------------------------------------------------------------------------------
def test_preferences_by_scores() -> None:
    scores = {"a": 1.0, "b": 3.0, "c": None}
    judge = lambda texts, ids: [scores[text] for text in texts]  # noqa: E731
    assert ByScores(judge)("abac", "baba", [0] * 4) == [0.0, 1.0, 0.0, None]
    assert ByScores(judge)(["a"], ["a"], [0]) == [0.5]
    assert ByScores(judge, 2.0)("ab", "ba", [0, 0]) == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e)])
    assert ByScores(judge, 1e-300)("ba", "ab", [0, 0]) == pytest.approx([1.0, 0.0])
    tokens = world(prefer=ByScores(judge))
    said = tokens.prefer(answered(tokens, ["b", "c"]), answered(tokens, ["a", "a"]))
    assert said.tolist() == [1.0, 0.5]  # not known


def longer(prompt: str, first: str, second: str) -> float:
    return 1.0 if len(first) > len(second) else 0.25


def outside(prompt: str, first: str, second: str) -> float:
    return 2.0


def test_an_oracle_is_a_function_of_two_texts() -> None:
    asked = []
    said = PreferSection(oracle=f"{__name__}:longer")

    def judging(rule, entries):
        return lambda texts, ids: [asked.append(i) or rule(t, entries[i]) for t, i in zip(texts, ids, strict=True)]

    prefer = preferring(said, ENTRIES, None, judging)
    assert list(prefer(['a "quoted"', "b"], ["b", "cc"], [0, 1])) == [1.0, 0.25]
    assert asked == [0, 1]
    with pytest.raises(ValueError, match=r"not 2\.0"):
        PairOracle(f"{__name__}:outside")(json.dumps(["a", "b"]), ENTRIES[0])
    with pytest.raises(VerifierError, match="cannot be imported"):
        PairOracle("nowhere:none")
    with pytest.raises(RecipeError, match="no effect beside an oracle"):
        preferring(PreferSection(oracle="a:b", temperature=1), ENTRIES, None, judging)
    with pytest.raises(RecipeError, match=r"the tasks have none.*oracle=module:function"):
        preferring(PreferSection(), ENTRIES, None, judging)


# -- follow-ups --------------------------------------------------------------------------------------------------------
def test_follow_ups_stand_behind_answers_and_only_their_words_count() -> None:
    tokens = world(follow_ups=FollowUps(("ok", "good"), ("no!",), "\nUser: "))
    rows, of, pleased = tokens.follow_ups(answered(tokens, ["2", "44"]))
    assert (of.tolist(), pleased.tolist()) == ([0, 0, 0, 1, 1, 1], [True, True, False] * 2)
    assert prompts(rows) == ["1+1=2"] * 3 + ["2+3=44"] * 3
    said = [WORDS.decode(t[k].tolist()) for t, k in zip(rows.step["_token"], rows.trained, strict=True)]
    assert said == ["\nUser: ok", "\nUser: good", "\nUser: no!"] * 2
    user = model()
    ctx = context(method(), {"policy": user, "user": user}, tokens)
    batch = answered(tokens, ["2", "44"])
    given = FollowUpLikelihood()(ctx, batch).step["reward"].sum(1)
    mean = torch.stack([user.score(rows).logp[r][rows.trained[r]].mean() for r in range(6)]).detach()
    close(given, torch.stack([mean[:2].mean() - mean[2], mean[3:5].mean() - mean[5]]), 1e-12)


def test_follow_ups_of_conversations_are_messages_of_the_user() -> None:
    entry = Entry(None, ({"role": "user", "content": "1+1="},), "2")
    tokens = world([entry], chats(), follow_ups=FollowUps(("ok",), ("no",)))
    rows, _, _ = tokens.follow_ups(answered(tokens, ["2"], [0]))
    whole = WORDS.decode([t for t in rows.context()[0].tolist() if t != NO_TOKEN])
    assert whole == "[user]1+1=<eos>[assistant]2<eos>"
    said = [WORDS.decode(t[k].tolist()) for t, k in zip(rows.step["_token"], rows.trained, strict=True)]
    assert said == ["[user]ok", "[user]no"]


# -- wrong copies ------------------------------------------------------------------------------------------------------
def test_a_copy_is_spoilt_where_the_answer_stands_last() -> None:
    entries = [Entry("spell", None, "abc"), Entry("spell", None, "xy"), Entry("spell", None, "q")]
    tokens = world(entries, corrupt="swap_first_two")
    rows = answered(tokens, ["abc, so abc.", "it is xy", "unsure"], (0, 1, 2))
    made = tokens.corrupted(rows, torch.Generator().manual_seed(1))
    assert tokens.texts(made) == ["abc, so bac.", "it is yx", "nusure"]
    assert made.row.keys() == rows.row.keys()
    assert made.row["group"].tolist() == rows.row["group"].tolist()
    assert made.row["finish"].tolist() == [Finish.STOPPED] * 3
    tokens = world(entries, corrupt="swap_two")
    drawn = {tuple(tokens.texts(tokens.corrupted(rows, torch.Generator().manual_seed(s)))) for s in range(8)}
    assert len(drawn) > 1
    again = [tokens.texts(tokens.corrupted(rows, torch.Generator().manual_seed(5))) for _ in range(2)]
    assert again[0] == again[1]


# -- criticised solutions ----------------------------------------------------------------------------------------------
def graded(texts, ids):
    return [float(text.strip() == ENTRIES[task].answer) for text, task in zip(texts, ids, strict=True)]


def solved():
    return [Entry(e.prompt, None, e.answer, {"solution": s}) for e, s in zip(ENTRIES, ("2", "4"), strict=True)]


SAID = CritiqueSection(template="{prompt}{solution} right or wrong?", refine="{prompt} not {solution}: {critique} So:")


def test_solutions_become_tasks_and_critiques_prompts() -> None:
    entries, critiques = solutions_to_judge(SAID, solved(), graded)
    assert [(e.prompt, e.answer) for e in entries] == [
        ("1+1=2 right or wrong?", "right"),
        ("2+3=4 right or wrong?", "wrong"),
    ]
    tokens = world(entries, critique=critiques)
    batch = answered(tokens, ["3+2 is 5: wrong.", "Wrong? No: right"], (1, 1))
    assert tokens.judged_wrong(batch).tolist() == [True, False]
    begun = tokens.refine(batch)
    assert begun.steps == 0
    assert prompts(begun) == ["2+3= not 4: 3+2 is 5: wrong. So:", "2+3= not 4: Wrong? No: right So:"]
    done = tokens.complete(tokens.tasks(torch.tensor([1, 1])), [WORDS(t).input_ids for t in ("5", "4")])
    assert tokens.refined(done).tolist() == [1.0, 0.0]


def test_useful_critiques_are_paid_for_what_a_solver_makes_of_them() -> None:
    entries, critiques = solutions_to_judge(SAID, solved(), graded)
    read = []

    def grade(texts, ids):
        read.extend(ids)
        return [1.0 if n % 2 else 0.0 for n, _ in enumerate(texts)]

    tokens = world(entries, critique=replace(critiques, grade=grade))
    solver = model()
    ctx = context(method(), {"policy": solver, "solver": solver}, tokens, generate)
    batch = answered(tokens, ["right", "it is wrong", "wrong", "right"], (0, 1, 0, 1))
    verdicts = torch.tensor(
        [1.0, 1.0, 0.0, 0.0]
    )  # the third finds a right solution wrong, the fourth a wrong one right
    batch = batch.with_steps({"reward": on_last(batch, verdicts)})
    paid = RefinementReward(count=4, model="solver")(ctx, batch).step["reward"].sum(1)
    assert read == [1] * 4  # one critique of a wrong solution is right, and solved by four times
    assert paid.tolist() == [1.0, 1.5, 0.0, 0.0]


def test_solutions_that_can_not_be_judged_are_refused() -> None:
    with pytest.raises(RecipeError, match="needs a verifier of solutions"):
        solutions_to_judge(SAID, solved(), None)
    with pytest.raises(RecipeError, match="'solution' in every record; 1 of 2 have none"):
        solutions_to_judge(SAID, [*solved()[:1], ENTRIES[1]], graded)
    with pytest.raises(RecipeError, match="can not judge the recorded solution '2'"):
        solutions_to_judge(SAID, solved(), lambda texts, ids: [None, 1.0])


@pytest.mark.parametrize(
    ("text", "said"),
    [("It is right", "right"), ("right, no: WRONG.", "wrong"), ("wrongly so", None), ("", None), ("(right)", "right")],
)
def test_the_last_verdict_counts(text, said) -> None:
    assert last_said(text, ("right", "wrong")) == said
    assert Verdict(("right", "wrong"))(text, Entry("a", None, "right")) == float(said == "right")


def test_verdicts_are_different_words() -> None:
    for words in (("A",), ("A", "a"), ("A", "")):
        with pytest.raises(VerifierError, match="two different words"):
            Verdict(words)
    assert last_said("a.b or c", ("a.b", "c")) == "c"
    assert last_said("axb", ("a.b", "c")) is None  # words are no patterns


# -- comparisons in both orders ----------------------------------------------------------------------------------------
def test_comparisons_are_told_by_their_records() -> None:
    said = [("x", False), ("y", True), ("x", True), ("z", False), ("y", False)]
    entries = [Entry(str(n), None, "A", {"comparison": c, "swapped": s}) for n, (c, s) in enumerate(said)]
    tokens = token_world(entries, WORDS, 4)
    batch = tokens.start(tokens.tasks(torch.tensor([0, 2, 1, 4, 3])))
    ids = tokens.comparisons(batch).tolist()
    assert ids[0] == ids[1] != ids[2] == ids[3] != ids[4]
    assert tokens.swapped(batch).tolist() == [False, True, True, False, False]
    pairs, similar = tokens.task_pairs()
    assert (pairs.tolist(), similar.tolist()) == ([[0, 2], [4, 1]], [1.0, 1.0])
    with pytest.raises(WorldError, match="'comparison'"):
        world().comparisons(batch)


# -- refusals ----------------------------------------------------------------------------------------------------------
def test_questions_without_words_name_the_recipe_key() -> None:
    tokens = world()
    rows = answered(tokens, ["2", "5"])
    asks = {
        "prefer": lambda: tokens.prefer(rows, rows),
        "judge": lambda: tokens.verdicts(rows, rows),
        "follow_ups": lambda: tokens.follow_ups(rows),
        "corrupt": lambda: tokens.corrupted(rows, torch.Generator()),
        "critique": lambda: tokens.judged_wrong(rows),
    }
    for name, ask in asks.items():
        with pytest.raises(WorldError, match=f"in a recipe: tasks.ask.{name}"):
            ask()
    with pytest.raises(WorldError, match=r"in a recipe: tasks.ask"):
        token_world(ENTRIES, WORDS, 4).prefer(rows, rows)
    with pytest.raises(WorldError, match=r"judge.aided"):
        world(judge=JudgePrompt("{prompt}{first}{second}")).verdicts(rows, rows, rows)


def test_wrong_words_are_refused() -> None:
    with pytest.raises(WorldError, match=r"fields \['first', 'prompt', 'second'\] and no other"):
        JudgePrompt("{prompt} {first.__class__}")
    with pytest.raises(WorldError, match="different words"):
        JudgePrompt("{prompt}{first}{second}", words=("A", "A"))
    with pytest.raises(WorldError, match="one of displeased ones"):
        FollowUps(("ok",), ())
    with pytest.raises(WorldError, match="no other"):
        Critiques("{prompt}", ("right", "wrong"), ENTRIES, ["", ""], graded)
    with pytest.raises(WorldError, match="did you mean 'swap_two'"):
        world(corrupt="swap_tow")


def test_prompts_without_room_are_refused() -> None:
    tokens = world(judge=JUDGE, positions=17)
    rows = answered(tokens, ["2", "5"])
    with pytest.raises(WorldError, match="no room for 2 more in the model's 17 positions"):
        tokens.verdicts(answered(tokens, ["2222", "5"]), rows)
