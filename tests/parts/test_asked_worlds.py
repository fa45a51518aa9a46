"""What worlds of text and strings can be asked: which steps began in the same state, an answer at once."""

from dataclasses import replace

import pytest
import torch

from policyopt.engines.plain import generate
from policyopt.evaluation.experiments._common import numbers as stream
from policyopt.ops.random import new_keys
from policyopt.ops.sequences import prefix_keys
from policyopt.policies.checkpoint import new_language
from policyopt.reward.parts import Verified
from policyopt.sampling.anytime import Anytime
from policyopt.selection.tasks import Selection
from policyopt.train import _draw, _judge
from policyopt.types import StepKind
from policyopt.worlds.sequences import SequenceWorld
from policyopt.worlds.tokens import TokenWorld, WorldError
from support import close, context, method

pytestmark = pytest.mark.usefixtures("float64")

PROMPTS = [[3], [5, 1, 7, 2]]


def world(**parts):
    judge = lambda texts, tasks: [float(len(text)) for text in texts]  # noqa: E731
    return TokenWorld(PROMPTS, eos=0, limit=8, decode=str, judge=judge, closing=(9, 8), **parts)


def policy():
    return new_language(11, "llama", hidden_size=16, layers=1, heads=2, seed=3, dtype=torch.float64)


def rows(count=6, steps=None):
    of = world()
    start = of.start(of.tasks(torch.arange(count) % 2))
    return generate(policy(), of, start, new_keys(count, stream(0, "rows")), 1.0, 0, steps)


def test_keys_are_equal_for_equal_prefixes_only() -> None:
    first = torch.tensor([4, 4, 2, 4])
    taken = torch.tensor([[1, 2, 3], [1, 2, 5], [1, 2, 3], [2, 2, 3]])
    keys = prefix_keys(first, taken)
    for a in range(4):
        for b in range(4):
            for s in range(3):
                for t in range(3):
                    same = s == t and first[a] == first[b] and taken[a, :s].tolist() == taken[b, :t].tolist()
                    assert (int(keys[a, s]) == int(keys[b, t])) == bool(same)
    assert prefix_keys(first, torch.zeros(4, 0, dtype=torch.int64)).shape == (4, 0)


def test_states_of_strings_and_texts_are_their_prefixes() -> None:
    strings = SequenceWorld(2, 3, 2, lambda s, t: s[:, 0].double())
    batch = strings.complete(strings.tasks(torch.tensor([0, 0, 1])), torch.tensor([[1, 2], [1, 0], [1, 2]]))
    keys = strings.state_keys(batch)
    assert keys[0].tolist() == keys[1].tolist()
    assert keys[0, 0] != keys[2, 0]
    text = rows()
    assert world().state_keys(text)[::2, 0].unique().numel() == 1


def test_a_row_that_answers_at_once_goes_on_behind_the_closing_tokens() -> None:
    thought = rows(steps=3)
    concluded = world().conclude(thought)
    for b in range(len(thought)):
        own = thought.step["_token"][b][thought.own[b]].tolist()
        own = own[:-1] if own and own[-1] == 0 else own
        seen = concluded.step["_token"][b][concluded.valid[b]].tolist()
        assert seen == [*own, 9, 8]
        assert concluded.step["kind"][b][concluded.valid[b]].tolist()[-2:] == [int(StepKind.HINT)] * 2
    assert not bool(concluded.done.any())
    done = generate(policy(), world(), concluded, new_keys(6, stream(1, "rows")), 1.0, 0)
    assert bool(done.done.all())
    assert bool((done.lengths > concluded.lengths).all())
    model = policy()
    logp = model.score(done).logp.detach()
    close(logp[done.own & done.step["train"]], done.step["behaviour"][done.own & done.step["train"]], 1e-8)


def test_thoughts_of_text_are_cut_and_answered() -> None:
    made = method(sampling=Anytime(2, (2, 4), answers=2), reward=Verified(), selection=Selection(2))
    ctx = context(made, {"policy": policy()}, world(), generate)
    batch = made.sampling(ctx, _draw(ctx), _judge(ctx))
    assert len(batch) == 4 + 16
    answers = batch.row["budget"] >= 0
    assert bool((batch.step["kind"][answers] == int(StepKind.HINT)).sum(1).eq(2).all())
    for b in answers.nonzero()[:, 0].tolist():
        place = (batch.step["kind"][b] == int(StepKind.HINT)).nonzero()[:, 0]
        assert int(batch.trained[b].nonzero()[0]) == int(place[-1]) + 1


def test_what_can_not_be_concluded_is_refused() -> None:
    with pytest.raises(WorldError, match="closing"):
        replace(world(), closing=()).conclude(rows())
    with pytest.raises(WorldError, match="raise the limit"):
        replace(world(), limit=2).conclude(rows(steps=3))
