"""Language policies told a code: each row beside its own, new rows beside a place; what is saved writes the same."""

import copy
from typing import Any

import pytest
import torch
from test_language import PROMPTS, recorded, tiny, world

from policyopt.compose import Role, Term
from policyopt.constraint.cloning import WriteAgain
from policyopt.engines.plain import generate
from policyopt.ops.random import new_keys
from policyopt.policies.checkpoint import load_language, save_language
from policyopt.policies.hindsight import HINDSIGHT, Landmark
from policyopt.policies.hindsight_language import HindsightLanguage
from policyopt.run import Run
from policyopt.seen import SeenBatch
from policyopt.update.averaging import RowMean
from support import close, context, method

pytestmark = pytest.mark.usefixtures("float64")
TYPES = ("qwen2", "gemma", "gemma3_text", "gpt_neox")


def told(model_type="qwen2", size=3) -> HindsightLanguage:
    """A policy whose codes and place matter."""
    made = HindsightLanguage(tiny(model_type), size, seed=2).double()
    with torch.no_grad():
        made.told.weight.mul_(20)
        made.encoder.model.score.weight.mul_(3)
        made.place.copy_(torch.tensor([0.4, -1.0, 0.7])[:size])
    return made


def by_hand(policy: HindsightLanguage, row: int, code: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of a recorded row's steps: one forward of the whole model, its table of embeddings shifted."""
    batch = recorded()
    answer = batch.step["_token"][row][batch.own[row]]
    tokens = torch.cat([torch.tensor(PROMPTS[row]), answer])
    model = copy.deepcopy(policy.causal)
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.clone())
        weight.add_(policy.told.weight @ code)
    logits = model(input_ids=tokens[None]).logits[0].log_softmax(-1)
    return logits[len(PROMPTS[row]) - 1 : -1].gather(1, answer[:, None])[:, 0]


@pytest.mark.parametrize("model_type", TYPES)
def test_rows_are_scored_beside_their_own_code_and_beside_the_place(model_type: str) -> None:
    policy, batch = told(model_type), recorded()
    codes = policy.embed(batch)
    assert float((codes[0] - codes[1]).detach().norm()) > 0.1
    for context_name in (HINDSIGHT, None):
        found = policy.score(batch, context_name).logp
        with torch.no_grad():
            policy.language.score_rows = 2
            close(policy.score(batch, context_name).logp, found.detach(), 1e-10)
            policy.language.score_rows = 256
        for row in range(len(batch)):
            code = codes[row] if context_name == HINDSIGHT else policy.place
            close(found[row][batch.own[row]], by_hand(policy, row, code.detach()).detach(), 1e-9)


def landmark(run: Run, name: str, *, trained: bool) -> Any:
    return Landmark(trained=trained).build(run, name)


def test_the_place_is_zero_at_first_and_then_the_policy_is_the_one_inside() -> None:
    policy, batch = HindsightLanguage(tiny(), 3).double(), recorded()
    close(policy.score(batch).logp, tiny().score(batch).logp, 1e-10)


def test_gradients_of_a_row_beside_itself_reach_the_encoder_and_those_beside_the_place_do_not() -> None:
    policy, batch = told(), recorded()
    policy.score(batch, HINDSIGHT).logp.sum().backward()
    assert all(p.grad is not None for p in policy.encoder.model.score.parameters())
    slope = policy.told.weight.grad
    assert slope is not None
    assert float(slope.abs().sum()) > 0
    policy.zero_grad()
    policy.score(batch).logp.sum().backward()
    assert all(p.grad is None for p in policy.encoder.parameters())


@pytest.mark.parametrize("model_type", ["qwen2", "gemma3_text"])
def test_what_is_saved_writes_as_the_policy_does(model_type: str, tmp_path) -> None:
    policy, batch = told(model_type), recorded()
    save_language(policy.acting(), tmp_path)
    opened = load_language(tmp_path, torch.float64)
    close(opened.score(batch).logp, policy.score(batch).logp, 1e-9)
    start = world().start(world().tasks(torch.arange(5)))
    start = start.with_rows({"temperature": torch.ones(5)})
    both = [
        generate(one, world(), start, new_keys(5, torch.Generator().manual_seed(3)), 1.0, 0) for one in (policy, opened)
    ]
    assert torch.equal(both[0].step["_token"], both[1].step["_token"])


def test_the_policy_follows_its_landmark_and_copies_keep_theirs() -> None:
    policy = told()
    run = Run({"policy": policy}, None, generate, 0)
    wish, origin = (landmark(run, name, trained=trained) for name, trained in (("wish", True), ("origin", False)))
    kept = copy.deepcopy(policy)
    with torch.no_grad():
        wish.place.add_(1.0)
    close(policy.place, wish.place.detach())
    close(policy.place - kept.place, torch.ones(3))
    assert not [name for name, _ in policy.named_parameters() if "place" in name]
    assert "place" in policy.state_dict()
    batch = recorded()
    close(origin.worth(batch), -policy.embed(batch).norm(dim=1))
    for ours, theirs in zip(
        policy.encoder.model.base_model.parameters(), policy.language.backbone.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_rows_of_choices_are_written_again_by_their_log_probability() -> None:
    batch, term = recorded(), Term("again", WriteAgain(), RowMean())
    asked = method(term, roles={"policy": Role(grad=True, context=HINDSIGHT)})
    policy = told()
    ctx = context(asked, {"policy": policy})
    close(WriteAgain()(SeenBatch(ctx, batch), batch), -policy.score(batch, HINDSIGHT).logp, 1e-12)
