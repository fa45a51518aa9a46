"""`policyopt compare`: equal beginnings, tasks and budgets; stopping changes nothing, nor does running side by side."""

import json
import re
import sys
from dataclasses import asdict

import pytest
import tiny
import yaml

from policyopt.evaluation.comparison_record import began_alike, other_tasks, to_json
from policyopt.recipe.base import BudgetSection, RecipeError
from policyopt.recipe.budget import planned
from policyopt.recipe.comparison import asked, worker
from policyopt.recipe.comparison.board import LineBoard
from policyopt.recipe.comparison.compare import check, claim_folder, compare
from policyopt.recipe.comparison.plan import TUNING_SEED, bases, runs, tuning
from policyopt.recipe.comparison.pool import Pool
from policyopt.recipe.comparison.results import comparison_record, run_record
from policyopt.recipe.comparison.worker import perform
from policyopt.recipe.schema import make_recipe
from policyopt.recipe.training import Training
from policyopt.runtime.journal import read
from policyopt.runtime.progress import Silent

FAST = {"selection.count": 2, "sampling.size": 3, "update.policy.learning_rate": 0.01}
NO_KL = {"grpo": {"constraint.kl.weight": 0}}


def recipe(first=2, **changes):
    """Poles that fall within 12 steps; two stages, of which the first is shared."""
    stages = [{"method": "grpo", "steps": count, "options": FAST, "options_for": NO_KL} for count in (first, 4)]
    data = {
        "name": "poles",
        "policy": {"control": {"hidden": [4]}},
        "tasks": {"gymnasium": "CartPole-v1", "limit": 12},
        "stages": stages if first else stages[1:],
        "evaluation": {"episodes": 3},
        "samples": {"rows": 0},
        **changes,
    }
    return make_recipe(data)


def plan(methods="grpo,rloo", budget="samples=24", **changes):
    given = {"seeds": 2, "budget": asked.read_budget(budget, 2), **changes}
    return asked.make_plan(given.pop("recipe", None) or recipe(), arms=asked.read_arms(methods), **given)


def nothing(told):
    pass


def perform_all(made, folder, tell=nothing):
    """The whole comparison in this process, one run after another."""
    for job in [*bases(made, folder), *runs(made, folder, {})]:
        assert perform(job.recipe, job.folder, job.base, tell)
    return comparison_record(made, runs(made, folder, {}), {}, {}, {}, "command")


def without_clocks(record):
    data = json.loads(to_json(record))
    for run in data["runs"]:
        del run["seconds"]
    return data


class Quiet:
    """A board that shows nothing and remembers how runs ended."""

    def __init__(self):
        self.ends = []

    def begin(self, phase, jobs, done):
        self.phase = (phase, len(jobs), len(done))

    def heard(self, job, told):
        if "end" in told:
            self.ends.append((job.label, told["end"]))

    def end(self):
        pass


# -- budgets ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("costs", "rounds"),
    [
        ([], 100),  # nothing is known
        ([10], 10),
        ([10, 10, 10], 10),
        ([10] * 9, 10),
        ([10] * 10, 10),
        ([30, 30, 30], 3),  # another one would go beyond 100
        ([30, 10, 10], 6),
        ([60, 41], 2),
        ([200], 1),
    ],
)
def test_rounds_follow_from_what_rounds_cost(costs, rounds):
    budget = BudgetSection(tokens=100)
    assert planned(budget, [{"tokens": cost} for cost in costs], 100) == rounds


def test_a_budget_that_is_never_used_up_is_an_error():
    with pytest.raises(RecipeError, match="used up no samples"):
        planned(BudgetSection(samples=5), [{"samples": 0}] * 1000, 10**6)


def test_only_the_last_stage_has_a_budget():
    stages = [{"method": "grpo", "steps": 2, "budget": {"tokens": 5}}, {"method": "grpo", "steps": 2}]
    with pytest.raises(RecipeError, match=r"stages.0.budget: only the last stage"):
        recipe(stages=stages)
    with pytest.raises(RecipeError, match=r"exactly one of budget.tokens, budget.samples and budget.seconds"):
        recipe(stages=[{"method": "grpo", "steps": 2, "budget": {"tokens": 5, "samples": 5}}])


def test_schedules_end_with_the_budget(tmp_path):
    options = {**FAST, "update.policy.schedule": {"part": "linear", "final": 0.0}}
    stages = [{"method": "rloo", "steps": 1000, "options": options, "budget": {"samples": 30}}]
    with Training.start(recipe(stages=stages, folder=str(tmp_path / "run"))) as training:
        rates, rounds = [], training.rounds()
        for _ in rounds:
            (optimizer,) = training.built.run.optimizers.values()
            rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.01, 0.008, 0.006, 0.004, 0.002])


def test_the_progress_line_tells_how_much_of_the_budget_is_spent(tmp_path):
    class Told(Silent):
        def __init__(self):
            self.expected = []

        def expect(self, total, spent):
            self.expected.append((total, spent))

    stages = [{"method": "rloo", "steps": 1000, "options": FAST, "budget": {"samples": 30}}]
    told = Told()
    with Training.start(recipe(stages=stages, evaluation=None, folder=str(tmp_path / "run")), told) as training:
        assert len(list(training.rounds())) == 5
    assert told.expected == [(5, f"{share} of 30 samples") for share in ("20%", "40%", "60%", "80%", "100%")]


def test_costs_count_what_is_thrown_away_and_what_is_read(tmp_path):
    stages = [{"method": "dapo", "steps": 2, "options": FAST}]
    with Training.start(recipe(stages=stages, folder=str(tmp_path / "run"))) as training:
        kept = [len(done.judged) for done in training.rounds()]
        lines = read(training.folder.cost)
    # Episodes of at most 12 steps are often equally long: groups without a difference are drawn again.
    assert [line["samples"] % 6 for line in lines] == [0, 0]
    assert sum(line["samples"] for line in lines) >= sum(kept)
    data = {
        "jsonl": str(tiny.jsonl(tmp_path / "d.jsonl", [{"prompt": "ab", "demonstration": "ba", "answer": "ba"}] * 8))
    }
    words = {
        "name": "w",
        "policy": {"new": {"hidden_size": 8, "layers": 1, "heads": 2, "positions": 16}},
        "tasks": {**data, "verifier": "exact", "limit": 4},
        "stages": [{"method": "sft", "steps": 1, "options": {"selection.count": 4}}],
        "evaluation": None,
        "folder": str(tmp_path / "sft"),
    }
    with Training.start(make_recipe(words)) as training:
        list(training.rounds())
        (line,) = read(training.folder.cost)
    assert (line["samples"], line["tokens"]) == (4, 12)  # "ba" and its end, of four rows


def test_a_run_without_its_account_goes_on_only_without_a_budget(tmp_path):
    for name, budget in (("free", None), ("kept", {"samples": 36})):
        stages = [{"method": "rloo", "steps": 6, "options": FAST, "budget": budget}]
        with Training.start(recipe(stages=stages, folder=str(tmp_path / name), checkpoint_every=1)) as training:
            rounds = training.rounds()
            next(rounds), next(rounds)
            rounds.close()
        (tmp_path / name / "cost.jsonl").unlink()
    with Training.resume(tmp_path / "free") as training:
        assert len(list(training.rounds())) == 4
    with Training.resume(tmp_path / "kept") as training, pytest.raises(RecipeError, match="does not have the cost"):
        list(training.rounds())


# -- runs --------------------------------------------------------------------------------------------------------------
def test_arms_part_from_the_same_policy_and_equal_a_run_of_their_own(tmp_path):
    made = plan()
    (shared, _), jobs = bases(made, tmp_path), runs(made, tmp_path, {})[:2]
    for job in (shared, *jobs):
        assert perform(job.recipe, job.folder, job.base, nothing)
    records = [run_record(made, job) for job in jobs]
    assert began_alike(records)
    assert other_tasks(records) == ()
    assert {(run.samples, run.rounds) for run in records} == {(24, 4)}
    assert [share for share, _ in records[0].curve] == [0.0, 0.5, 1.0]
    assert records[0].curve[0] == records[1].curve[0]
    # The same run without sharing its first stage.
    job = jobs[0]
    alone = job.recipe.model_copy(update={"folder": str(tmp_path / "alone")})
    with Training.start(alone) as training:
        list(training.rounds())
        training.finish()
    for name in ("metrics.jsonl", "model/policy.safetensors", "results/after.json"):
        assert (job.folder / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
    along = [
        json.loads((run / "results/along-1.json").read_text())["found"] for run in (job.folder, tmp_path / "alone")
    ]
    assert along[0] == along[1]
    assert not (job.folder / "checkpoints").exists()


def test_a_run_that_was_killed_goes_on_to_the_same_end(tmp_path, monkeypatch):
    made = plan(recipe=recipe(first=0, checkpoint_every=1))
    whole, killed = (runs(made, tmp_path / name, {})[0] for name in ("whole", "killed"))
    assert perform(whole.recipe, whole.folder, None, nothing)

    def die(told):
        raise KeyboardInterrupt

    # Told after the first round.
    monkeypatch.setattr(worker, "TOLD_EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        perform(killed.recipe, killed.folder, None, die)
    assert len(read(killed.folder / "cost.jsonl")) == 1
    assert perform(killed.recipe, killed.folder, None, nothing)
    one, two = (asdict(run_record(made, job)) for job in (whole, killed))
    assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_a_folder_that_was_half_made_is_made_again(tmp_path):
    made = plan(recipe=recipe(first=0))
    job = runs(made, tmp_path, {})[0]
    (job.folder / "checkpoints").mkdir(parents=True)
    assert perform(job.recipe, job.folder, None, nothing)
    assert run_record(made, job).rounds == 4


def test_processes_change_nothing_and_finished_runs_are_kept(tmp_path):
    made = plan(recipe=recipe(first=0))
    alone = perform_all(made, tmp_path / "alone")
    quiet = Quiet()
    done = compare(made, tmp_path / "together", quiet, 2, "command")
    assert done.record is not None
    assert without_clocks(done.record) == without_clocks(alone)
    assert sorted(end for _, end in quiet.ends) == ["finished"] * 4
    assert "## Ranking" in done.report.read_text()
    # Given again, it trains nothing.
    again = Quiet()
    same = compare(made, tmp_path / "together", again, 1, "command")
    assert again.ends == []
    assert same.record == done.record
    assert json.loads((tmp_path / "together" / "report.json").read_text()) == json.loads(to_json(done.record))


def test_a_process_that_dies_is_a_failed_run_and_another_takes_its_place(tmp_path):
    first, second = runs(plan(), tmp_path, {})[:2]
    # Dies of runs of grpo, in every process that tries, and finishes others.
    command = (
        "import json, os\n"
        "while line := input():\n"
        "    method = json.loads(line)['recipe']['stages'][-1]['method']\n"
        "    os.kill(os.getpid(), 9) if method == 'grpo' else print(json.dumps({'end': 'finished'}), flush=True)\n"
    )
    quiet = Quiet()
    with Pool(1, tmp_path / "log.txt", (sys.executable, "-c", command)) as pool:
        assert pool.run([first, second], quiet.heard)
    assert list(pool.failed) == ["grpo, seed 0"]
    assert re.fullmatch(r"phase start: process \d+ ended with -9", pool.failed["grpo, seed 0"])
    assert quiet.ends == [("grpo, seed 0", "failed"), ("rloo, seed 0", "finished")]


def test_tuning_uses_other_seeds_and_the_first_of_the_best_values(tmp_path):
    tune = asked.read_tuning("update.policy.learning_rate=0,1e-2", 1)
    made = plan(recipe=recipe(first=0), tune=tune, methods="rloo,reinforce")
    jobs = list(tuning(made, tmp_path))
    assert [(arm, value, job.seed) for arm, value, job in jobs[:3]] == [
        ("rloo", 0, TUNING_SEED),
        ("rloo", "1e-2", TUNING_SEED),
        ("reinforce", 0, TUNING_SEED),
    ]
    assert jobs[1][2].recipe.stages[-1].options["update.policy.learning_rate"] == "1e-2"
    assert jobs[0][2].recipe.stages[-1].budget.evaluations == 1
    chosen = runs(made, tmp_path, {"rloo": "1e-2", "reinforce": 0})
    assert [job.recipe.stages[-1].options["update.policy.learning_rate"] for job in chosen[:2]] == ["1e-2", 0]


# -- what the user says ----------------------------------------------------------------------------------------------
def test_arms_from_a_file_have_options_of_their_own(tmp_path):
    path = tmp_path / "arms.yaml"
    arms = {"grpo": None, "wide": {"method": "grpo", "options": {"sampling.size": 5}}, "bare": {"method": "rloo",
            "without": ["update.policy.learning_rate"]}}  # fmt: skip
    path.write_text(yaml.safe_dump({"arms": arms}))
    made = plan(str(path))
    options = {arm: made.of_arm(arm, 0).stages[-1].options for arm in made.arms}
    assert options["grpo"]["sampling.size"] == 3
    assert options["wide"]["sampling.size"] == 5
    assert "update.policy.learning_rate" not in options["bare"]
    assert made.of_arm("bare", 0).stages[-1].method == "rloo"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: asked.read_budget("steps=5", 2), "a budget is tokens=N, samples=N or seconds=N, not 'steps=5'"),
        (lambda: asked.read_budget("tokens=many", 2), "tokens can not be 'many'"),
        (lambda: asked.read_budget("tokens=0", 2), "tokens can not be '0'"),
        (lambda: asked.read_arms("grpo,grpo"), "needs a file of arms"),
        (lambda: asked.read_arms("no.yaml"), "no file of arms"),
        (lambda: asked.read_tuning("update.epochs=1", 2), "at least 2 items"),
        (lambda: plan("grpo"), "two arms or more"),
        (lambda: plan(baseline="ppo"), "baseline 'ppo' is not among"),
        (lambda: plan(recipe=recipe(evaluation=None)), "needs held-out tasks"),
        (lambda: check(plan("grpo,dpo")), "dpo"),
        (lambda: check(plan("grpo,sac")), "arm sac"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


def test_a_folder_is_one_comparison_to_which_seeds_and_arms_are_added(tmp_path):
    claim_folder(plan(), tmp_path)
    claim_folder(plan("grpo,rloo,reinforce", seeds=7), tmp_path)
    with pytest.raises(RecipeError, match="budget differ"):
        claim_folder(plan(budget="samples=30"), tmp_path)
    with pytest.raises(RecipeError, match="recipe differ"):
        claim_folder(plan(recipe=recipe(evaluation={"episodes": 4})), tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    with pytest.raises(RecipeError, match="holds no comparison"):
        claim_folder(plan(), tmp_path / "other")


def test_the_budget_of_a_recipe_is_what_its_method_uses():
    assert asked.own_budget(recipe(), 3) == BudgetSection(samples=24, evaluations=3)
    stream = {"sampling": {"part": "stream", "horizon": 8, "count": 2}, "constraint.kl.weight": 0}
    made = recipe(stages=[{"method": "ppo", "steps": 3, "options": stream}])
    assert asked.own_budget(made, 1) == BudgetSection(tokens=48, evaluations=1)


def test_lines_tell_how_runs_end(capsys, tmp_path):
    from rich.console import Console

    jobs = runs(plan(), tmp_path, {})
    board = LineBoard(Console(width=200))
    board.begin("runs", jobs, jobs[:1])
    board.heard(jobs[1], {"share": 0.5, "value": 3.0})
    board.heard(jobs[1], {"end": "finished"})
    board.heard(jobs[2], {"end": "failed", "error": "ValueError: no"})
    out = capsys.readouterr().out
    assert "4 runs, 1 of them finished already" in out
    assert "2/4" in out
    assert "rloo, seed 0 finished" in out
    assert "failed: ValueError: no" in out
