"""Control policies: scoring what they sampled, memory, critics, actions, acting in numpy, folders."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from control_policies import BODIES, BOX, FLAT, PIXELS, SPACES, actor, observed, rollout, stirred
from policyopt.compose import CompositionError, Loss, Term
from policyopt.objective.supervised import NegativeLogLikelihood
from policyopt.objective.surrogates import PolicyGradient
from policyopt.objective.weighted import AdvantageWeighted
from policyopt.ops.random import uniforms
from policyopt.policies.bodies import CNN, GAIN, MLP, NATURE, SMALL, Recurrent
from policyopt.policies.continuous_heads import GaussianHead, SquashedHead
from policyopt.policies.control import ControlSpec, new_actor
from policyopt.policies.control_checkpoint import PolicyFolderError, load_control, save_control
from policyopt.policies.heads import HEADS
from policyopt.policies.normaliser import Normaliser
from policyopt.policies.spaces import Box, Discrete, actions_of, observations_of
from policyopt.types import Batch, Tasks, empty_batch
from policyopt.update.averaging import TokenMean
from policyopt.update.gradient import losses
from support import close, context, method, numbers, widened

pytestmark = pytest.mark.usefixtures("float64")

every_head = pytest.mark.parametrize("head", SPACES)
every_body = pytest.mark.parametrize("body", BODIES)
continuous = pytest.mark.parametrize("head", ["gaussian", "gaussian_state", "squashed", "deterministic", "beta"])


# -- acting and scoring -----------------------------------------------------------------------------------------
@every_head
@every_body
def test_scores_are_the_densities_of_what_was_sampled(head: str, body: str) -> None:
    policy = actor(head, body)
    batch = rollout(policy)
    scores = policy.score(batch, full=True)
    close(scores.logp[batch.own], batch.step["behaviour"][batch.own], 1e-10)
    assert scores.exact == (head != "q")
    assert scores.dist is not None
    close(scores.dist[batch.own].log_prob(policy.taken(batch)[batch.own]), scores.logp[batch.own])
    rows = torch.tensor([2, 0])
    close(policy.score(batch[rows]).logp[batch[rows].own], scores.logp[rows][batch[rows].own], 1e-10)


@every_head
@every_body
def test_transitions_score_as_the_rows_they_were_cut_from(head: str, body: str) -> None:
    """flat(): one-step rows start from the stored memory; the state after a step is the next step's."""
    policy = actor(head, body)
    batch = rollout(policy)
    flat, own = batch.flat(), batch.own
    close(policy.score(flat).logp[:, 0], policy.score(batch).logp[own], 1e-10)
    ahead, at = policy.at(flat, following=True), policy.at(batch)
    whole = policy.at(batch, following=True)
    step = policy.taken(flat)
    close(ahead.log_prob(step)[:, 0], whole[own].log_prob(step[:, 0]), 1e-10)
    inner = own.clone()
    inner[:, :-1] &= own[:, 1:]
    inner[:, -1] = False
    later = torch.cat([torch.zeros_like(inner[:, :1]), inner[:, :-1]], 1)
    same = policy.taken(batch)[later]
    close(whole[inner].log_prob(same), at[later].log_prob(same), 1e-10)
    last = own & ~inner
    final = policy.next(batch)
    steps = policy.taken(batch)[last]
    close(whole[last].log_prob(steps), final.log_prob(steps), 1e-10)


@every_head
@every_body
def test_padding_leaves_no_trace(head: str, body: str) -> None:
    """Anything may stand at padding, in values and in gradients; nan too."""
    policy = actor(head, body)
    batch = rollout(policy)
    poisoned = widened(batch, 2)
    if "cnn" not in body:
        hole = ~poisoned.own[..., None]
        poisoned = poisoned.with_steps({"_obs": torch.where(hole, torch.nan, poisoned.step["_obs"])})
    critic = stirred(policy.make_critic(torch.Generator()), 3)
    found = []
    for rows in (batch, poisoned):
        own = rows.own
        logp = policy.score(rows).logp
        value = critic.value(rows)[:, :-1]
        loss = torch.where(own, logp, 0.0).sum() + torch.where(own, value, 0.0).sum()
        if logp.requires_grad:
            loss = loss + torch.where(own, policy.score(rows).entropy, 0.0).sum()
        parameters = [*policy.parameters(), *critic.parameters()]
        found.append(torch.autograd.grad(loss, parameters, allow_unused=True))
    for first, second in zip(*found, strict=True):
        assert (first is None) == (second is None)
        if first is not None and second is not None:
            close(second, first, 1e-10)


@pytest.mark.parametrize("head", ["categorical", "gaussian", "squashed", "beta", "multi"])
@every_body
def test_gradients_of_rows_are_the_sums_of_single_steps(head: str, body: str) -> None:
    """Against loops over rows and steps, each scored alone from its own history, with uneven weights."""
    policy = actor(head, body)
    batch = rollout(policy)
    weights = numbers(len(batch), batch.steps, seed=9)
    own = batch.own
    loss = torch.where(own, weights * policy.score(batch).logp, 0.0).sum()
    found = torch.autograd.grad(loss, list(policy.parameters()))
    total: Tensor = torch.zeros(())
    for b in range(len(batch)):
        state = policy.begin(_empty_like(batch[torch.tensor([b])]))
        memory = state.row.get("_memory")
        for t in range(int(batch.lengths[b])):
            row = {"_obs": batch.step["_obs"][b : b + 1, t]}
            if memory is not None:
                row["_memory"] = memory
            dist = policy.next(state.with_rows(row))
            total = total + weights[b, t] * dist.log_prob(policy.taken(batch)[b : b + 1, t])[0]
            if memory is not None:  # `advance` without its detach: gradients run through the row
                memory = policy._features(row["_obs"][:, None], memory)[:, 0]
    expected = torch.autograd.grad(total, list(policy.parameters()))
    for one, other in zip(found, expected, strict=True):
        close(one, other, 1e-9)


def _empty_like(batch: Batch) -> Batch:
    return empty_batch(Tasks(batch.row["task"])).with_rows({"_obs": batch.row["_obs"]})


def test_temperature_enters_scores_and_zero_counts_as_one() -> None:
    policy = actor("categorical")
    batch = rollout(policy)
    heated = batch.with_rows({"temperature": torch.tensor([0.5, 1.0, 0.0])})
    dist = policy.at(batch)
    expected = dist.tempered(torch.tensor([0.5, 1.0, 1.0])[:, None].expand(-1, 5)).log_prob(policy.taken(batch))
    close(policy.score(heated).logp[batch.own], expected[batch.own])
    close(
        policy.next(heated).log_prob(policy.taken(batch)[:, 0]), policy.next(batch).log_prob(policy.taken(batch)[:, 0])
    )


def test_exploration_is_read_from_the_rows_and_is_none_without() -> None:
    q, point = actor("q"), actor("deterministic")
    for level in (0.0, 0.3):
        batch = rollout(q, exploration=level)
        best = batch.own & (q.q_all(batch)[0].argmax(-1) == q.taken(batch))
        close(q.score(batch).logp[best], torch.full((int(best.sum()),), level / 4 + 1 - level).log())
        assert level or torch.equal(best, batch.own)
        rows = rollout(point, exploration=level)
        scores = point.score(rows)
        assert scores.exact == (level > 0)
        assert (scores.entropy is None) == (level == 0)
        off = (point.taken(rows) - point.at(rows).mode().detach())[rows.own]
        assert float(off.std()) == pytest.approx(level, abs=0.1)
    assert float(q.score(rollout(q, exploration=None)).logp.detach().abs().max()) == 0.0


@pytest.mark.parametrize(("head", "lacks"), [("q", "no gradient"), ("deterministic", "no density")])
@pytest.mark.parametrize("loss", [NegativeLogLikelihood(), PolicyGradient(), AdvantageWeighted()])
def test_log_probabilities_that_can_not_be_trained_are_refused(head: str, lacks: str, loss: Loss) -> None:
    """Their loss is nan or infinite and its gradient 0: nothing would be learned, and no error be seen."""
    policy = actor(head)
    batch = rollout(policy, exploration=None)
    batch = batch.with_steps({"advantage": torch.ones_like(batch.step["reward"])})
    ctx = context(method(Term("policy", loss, TokenMean())), {"policy": policy})
    with pytest.raises(CompositionError, match=lacks):
        list(losses(ctx, batch, ctx.stage.terms))


def test_other_contexts_are_refused() -> None:
    policy = actor()
    with pytest.raises(CompositionError, match="no 'critique'"):
        policy.score(rollout(policy), "critique")


# -- memory -----------------------------------------------------------------------------------------------------
def test_memory_follows_the_state_rule() -> None:
    policy = actor("gaussian", "gru")
    batch = rollout(policy)
    memory = batch.step["_memory"]
    close(memory[:, 0], torch.zeros(3, 7))
    for b, length in enumerate((1, 3, 5)):
        held = torch.zeros(1, 7)
        for t in range(length):
            close(memory[b, t], held[0], 1e-12)
            held = policy._features(batch.step["_obs"][b : b + 1, t : t + 1], held)[:, 0].detach()
        close(batch.row["_memory"][b], held[0], 1e-12)


def test_memory_matters_and_fragments_go_on_from_it() -> None:
    """A row cut in two, the second part starting from the memory of the first, scores as the whole."""
    policy = actor("gaussian", "gru")
    batch = rollout(policy, (5, 5, 5))
    whole = policy.score(batch).logp
    second = Batch(batch.row, {name: column[:, 2:] for name, column in batch.step.items()})
    close(policy.score(second).logp, whole[:, 2:], 1e-12)
    forgetful = second.with_steps({"_memory": torch.zeros_like(second.step["_memory"])})
    assert float((policy.score(forgetful).logp - whole[:, 2:]).abs().max().detach()) > 1e-3


def test_memory_learns_what_was_seen_at_the_start() -> None:
    """The last action must tell the sign of the first observation, which is not to be seen any more: a recurrent
    policy learns it from whole rows, one without memory can not."""
    found = {}
    for body in ("gru", "mlp"):
        policy = actor("categorical", body)
        batch = rollout(policy, (4,) * 32)
        first = batch.step["_obs"][:, :1, :1]
        seen = torch.cat([first.sign().expand(-1, -1, 5), torch.zeros(32, 3, 5)], 1)
        batch = batch.with_steps({"_obs": seen, "_action": (seen[:, :1, 0] > 0).long().expand(-1, 4)})
        optimizer = torch.optim.Adam(policy.parameters(), 0.03)
        for _ in range(60):
            optimizer.zero_grad()
            loss = -policy.score(batch).logp[:, 3].mean()
            loss.backward()
            optimizer.step()
        found[body] = float(-policy.score(batch).logp[:, 3].mean().detach())
    assert found["gru"] < 0.05
    assert found["mlp"] > 0.5


def test_policies_without_memory_add_no_columns() -> None:
    policy = actor("gaussian", "mlp")
    batch = rollout(policy)
    assert "_memory" not in batch.row
    assert policy.advance(batch, policy.taken(batch)[:, 0]) == {}


# -- critics ----------------------------------------------------------------------------------------------------
@every_body
def test_values_are_of_states(body: str) -> None:
    """(B, T + 1): rows, their transitions and any subset agree; behind a row's end its last state is valued."""
    policy = actor("gaussian", body)
    batch = rollout(policy)
    critic = stirred(policy.make_critic(torch.Generator().manual_seed(1)), 2)
    value = critic.value(batch)
    flat = critic.value(batch.flat())
    assert value.shape == (3, 6)
    close(flat[:, 0], value[:, :-1][batch.own], 1e-12)
    following = torch.where(batch.own, value[:, 1:], 0.0)
    close(flat[:, 1], following[batch.own], 1e-12)
    close(value[0, 1:], value[0, 1].expand(5), 1e-12)
    assert float((value[2].diff().abs()).min().detach()) > 1e-9


@pytest.mark.parametrize("head", [h for h in SPACES if h not in ("multi", "binary")])
@every_body
def test_action_values(head: str, body: str) -> None:
    policy = actor(head, body)
    batch = rollout(policy)
    model = stirred(policy.make_q(torch.Generator().manual_seed(1), 3), 2)
    own, steps = batch.own, policy.taken(batch)
    value = model.q(batch)
    assert value.shape == (3, 3, 5)
    assert float((value[0] - value[1]).abs().max().detach()) > 1e-3, "heads are initialised apart"
    flat = batch.flat()
    close(model.q(flat)[:, :, 0], value[:, own], 1e-12)
    ahead = model.q(batch, steps, following=True)
    close(model.q(flat, policy.taken(flat), following=True)[:, :, 0], ahead[:, own], 1e-12)
    several = model.q(batch, torch.stack([steps, steps.roll(1, 0)]))
    assert several.shape == (3, 2, 3, 5)
    close(several[:, 0], value, 1e-12)
    close(several[:, 1], model.q(batch, steps.roll(1, 0)), 1e-12)
    if head in ("categorical", "q"):
        every = model.q_all(batch)
        assert every.shape == (3, 3, 5, 4)
        close(every.gather(-1, steps[None, ..., None].expand(3, -1, -1, -1))[..., 0], value)
        close(model.q_all(flat, following=True)[:, :, 0], model.q_all(batch, following=True)[:, own], 1e-12)
    else:
        with pytest.raises(CompositionError, match="infinitely many"):
            model.q_all(batch)


@continuous
def test_action_values_have_gradients_to_the_steps(head: str) -> None:
    policy = actor(head)
    batch = rollout(policy, (2, 2))
    model = stirred(policy.make_q(torch.Generator().manual_seed(1), 2), 2)
    inside = policy.receive(policy.emit(policy.taken(batch)) * 0.5 + 0.25 * (policy.low + policy.high))
    assert torch.autograd.gradcheck(lambda step: model.q(batch, step), inside.requires_grad_(), atol=1e-6)


@continuous
def test_action_values_read_actions_between_minus_one_and_one(head: str) -> None:
    """Whatever the raw step is, the values of two policies' raw steps for one action are of one input."""
    policy = actor(head)
    action = torch.as_tensor(BOX.low) + torch.rand(50, 3, generator=torch.Generator().manual_seed(1)) * 3
    action = torch.minimum(action, torch.as_tensor(BOX.high))
    unit = 2 * (action - policy.low) / (policy.high - policy.low) - 1
    close(policy.head.bounded(policy.receive(action), policy.low, policy.high), unit, 3e-6)


def test_ensembles_are_single_networks_side_by_side() -> None:
    for norm in (False, True):
        policy = actor("gaussian", critic=MLP((8, 6), "relu", layer_norm=norm))
        model = stirred(policy.make_q(torch.Generator(), 2), 2)
        batch = rollout(policy)
        action = policy.head.bounded(policy.taken(batch), policy.low, policy.high)
        network = model.estimator.network
        for head in range(2):
            x = torch.cat([batch.step["_obs"], action], -1)
            for layer in range(3):
                x = x @ network.weights[layer][head] + network.biases[layer][head]
                if layer < 2:
                    if norm:
                        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
                        x = x * network.scales[layer][head] + network.shifts[layer][head]
                    x = x.relu()
            close(model.q(batch)[head][batch.own], x[..., 0][batch.own], 1e-12)


def test_a_policy_of_action_values_gives_them_itself() -> None:
    policy = actor("q")
    batch = rollout(policy)
    close(policy.q(batch)[0], policy.q_all(batch)[0].gather(-1, policy.taken(batch)[..., None])[..., 0])
    close(policy.q_all(batch.flat(), following=True)[0, :, 0], policy.q_all(batch, following=True)[0][batch.own], 1e-12)
    assert policy.q_all(batch).requires_grad
    assert not policy.score(batch).logp.requires_grad
    with pytest.raises(CompositionError, match="holds no action values"):
        actor("categorical").q_all(batch)
    with pytest.raises(CompositionError, match="several choices"):
        actor("multi").make_q(torch.Generator(), 2)


# -- actions ----------------------------------------------------------------------------------------------------
@every_head
def test_actions_are_in_the_space_and_return_to_their_raw_step(head: str) -> None:
    policy = actor(head)
    for dtype in (torch.float64, torch.float32):
        policy = policy.to(dtype)
        batch = rollout(actor(head), (6,) * 8)
        raw = policy.taken(batch)
        raw = raw.to(dtype).clamp(-4, 4) if head == "squashed" else raw.to(dtype) if raw.is_floating_point() else raw
        action = policy.emit(raw)
        space = SPACES[head][1]
        for one in action.flatten(0, 1).numpy():
            assert space.contains(one.astype(space.dtype)), one
        again = policy.emit(policy.receive(action))
        close(again, action, 1e-5 if dtype == torch.float32 else 3e-6)
        if head not in ("gaussian", "gaussian_state", "deterministic"):  # those are clipped: many to one
            close(policy.receive(action), raw, 1e-9 if dtype == torch.float64 else 2e-3)


@given(st.lists(st.floats(-6.5, 6.5), min_size=3, max_size=3))
def test_squashed_steps_return_through_the_world(raw: list[float]) -> None:
    policy = actor("squashed")
    step = torch.tensor([raw])
    close(policy.receive(policy.emit(step)), step, 1e-8)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
@pytest.mark.parametrize("head", ["squashed", "beta", "deterministic", "gaussian"])
def test_recorded_actions_have_finite_scores(head: str, share: list[float]) -> None:
    """Actions anywhere in the box, at its bounds too."""
    policy = actor(head)
    action = policy.low + torch.tensor([share]) * (policy.high - policy.low)
    batch = rollout(policy, (1,))
    batch = batch.with_steps({"_action": policy.receive(action)[None]})
    assert bool(policy.score(batch).logp.isfinite().all())
    close(policy.emit(policy.receive(action)), action, 1e-5)


def test_action_shapes_and_infinite_bounds() -> None:
    square = spaces.Box(-1, 1, (2, 2), np.float64)
    policy = new_actor(FLAT, square, head="squashed", body=MLP((4,)))
    raw = numbers(6, 4, seed=1)
    assert policy.emit(raw).shape == (6, 2, 2)
    close(policy.receive(policy.emit(raw)), raw, 1e-9)
    half = spaces.Box(np.array([-np.inf, 0.0]), np.array([np.inf, np.inf]), dtype=np.float64)
    policy = new_actor(FLAT, half, body=MLP((4,)))
    close(policy.emit(torch.tensor([[-5.0, -5.0]])), [[-5.0, 0.0]])
    close(policy.head.bounded(torch.tensor([[-5.0, 5.0]]), policy.low, policy.high), [[-5.0, 5.0]])


# -- construction -----------------------------------------------------------------------------------------------
def test_initial_weights() -> None:
    """Orthogonal: gain sqrt(2) hidden, 0.01 for the policy's output, 1 for values; zero biases; log std 0."""
    policy = new_actor(FLAT, BOX, body=MLP((64, 64)))
    critic, model = policy.make_critic(torch.Generator()), policy.make_q(torch.Generator(), 2)
    for weight, gain in (
        (policy.body.layers[1].weight, GAIN),
        (policy.out.weight, 0.01),
        (critic.estimator.network.weights[1][0].T, GAIN),
        (critic.estimator.network.weights[2][0].T, 1.0),
        (model.estimator.network.weights[2][1].T, 1.0),
    ):
        close(weight @ weight.T, gain**2 * torch.eye(len(weight)), 1e-12)
    assert policy.log_std is not None
    close(policy.log_std, torch.zeros(3))
    for name, parameter in (*policy.named_parameters(), *critic.named_parameters(), *model.named_parameters()):
        if "bias" in name:
            assert float(parameter.detach().abs().max()) == 0


@every_body
def test_weights_are_a_function_of_the_seed_alone(body: str) -> None:
    def made(seed: int) -> list[Tensor]:
        seen = PIXELS if "cnn" in body else FLAT
        policy = new_actor(seen, BOX, body=BODIES[body], seed=seed)
        rng = torch.Generator().manual_seed(seed)
        models = (policy, policy.make_critic(rng), policy.make_q(rng, 2))
        return [p.detach() for model in models for p in model.parameters()]

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = made(1)
    assert torch.equal(before, torch.random.get_rng_state()), "the global random state is left as it was"
    torch.manual_seed(6)
    assert all(torch.equal(a, b) for a, b in zip(first, made(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, made(2), strict=True))


def test_images() -> None:
    """Bytes are divided by 255; channels first and last are found; sizes that can not be convolved are refused."""
    image = torch.randint(0, 256, (5, 84, 84, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    last = new_actor(spaces.Box(0, 255, (84, 84, 4), np.uint8), spaces.Discrete(6), body=NATURE)
    first = new_actor(spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(6), body=NATURE)
    rows = empty_batch(Tasks(torch.arange(5)))
    one = last.next(rows.with_rows({"_obs": image})).logp
    close(first.next(rows.with_rows({"_obs": image.permute(0, 3, 1, 2)})).logp, one, 1e-12)
    close(first.eyes(image, torch.float64), image.flatten(1).double() / 255)
    assert first.body.out.in_features == 3136
    grey = new_actor(spaces.Box(0, 255, (84, 84), np.uint8), spaces.Discrete(6), body=NATURE)
    assert grey.next(rows.with_rows({"_obs": image[..., 0]})).logp.shape == (5, 6)
    small = new_actor(spaces.Box(0, 1, (10, 10, 6), np.float32), spaces.Discrete(6), body=SMALL)
    assert small.next(rows.with_rows({"_obs": torch.rand(5, 10, 10, 6)})).logp.shape == (5, 6)
    for shape, body, message in (((9, 9, 3), NATURE, "too small"), ((5,), NATURE, "2 or 3 dimensions")):
        with pytest.raises(CompositionError, match=message):
            new_actor(spaces.Box(0, 255, shape, np.uint8), spaces.Discrete(6), body=body)


def test_discrete_observations_are_one_hot() -> None:
    policy = stirred(new_actor(spaces.Discrete(7), spaces.Discrete(3), body=MLP((4,))), 1)
    rows = empty_batch(Tasks(torch.arange(7))).with_rows({"_obs": torch.arange(7)})
    logp = policy.next(rows).logp
    hidden = (policy.body.layers[0].weight.T + policy.body.layers[0].bias).tanh()
    close(logp, policy.out(hidden).log_softmax(-1))
    fast = policy.fast()
    assert fast is not None
    close(torch.as_tensor(fast(np.arange(7))), policy.out(hidden), 1e-12)


REFUSED = (
    (lambda: new_actor(FLAT, spaces.Discrete(3), head="gaussian"), "'gaussian' is for Box actions"),
    (lambda: new_actor(FLAT, BOX, head="softmax"), "head is one of auto, categorical"),
    (lambda: new_actor(FLAT, FLAT, head="squashed"), "needs finite bounds"),
    (lambda: new_actor(FLAT, spaces.Box(0, 9, (2,), np.int64)), "Box of floats"),
    (lambda: new_actor(spaces.Dict({"a": FLAT}), BOX), "FlattenObservation"),
    (lambda: new_actor(spaces.Discrete(3, start=1), BOX), "start at 0"),
    (lambda: new_actor(PIXELS, BOX, body=NATURE, normalise=True), "normalise=False"),
    (lambda: new_actor(FLAT, BOX, critic=Recurrent()), "no memory of their own"),
    (lambda: MLP(activation="gelu"), "activation is one of tanh"),
    (lambda: MLP((0,)), "at least 1"),
    (lambda: Box((2,), (0.0,), (1.0,)), "2 lower and 2 upper bounds"),
    (lambda: Box((1,), (1.0,), (1.0,)), "below its upper"),
)


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_refusals_name_the_rule(make: Any, message: str) -> None:
    with pytest.raises(CompositionError, match=message):
        make()


def test_heads_come_by_name_with_options_or_as_they_are() -> None:
    policy = new_actor(FLAT, BOX, head=GaussianHead(initial_log_std=-1.0))
    assert policy.log_std is not None
    close(policy.log_std, [-1.0] * 3)
    assert policy.spec.body == MLP((64, 64), "tanh")
    assert new_actor(FLAT, BOX, head="squashed").spec.body == MLP((256, 256), "relu")
    narrow = stirred(new_actor(FLAT, BOX, head=SquashedHead(log_std=(-0.1, 0.1)), body=MLP((4,))), 1, 3.0)
    std = narrow.next(empty_batch(Tasks(torch.arange(9))).with_rows({"_obs": 9 * numbers(9, 5)})).base.std
    assert 0.9 < float(std.min().detach()) < float(std.max().detach()) < 1.11


# -- acting in numpy --------------------------------------------------------------------------------------------
@every_head
@pytest.mark.parametrize("body", ["mlp", "norm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_acting_in_numpy_is_acting(head: str, body: str, dtype: torch.dtype) -> None:
    policy = actor(head, body, normalise=True)
    assert policy.normaliser is not None
    policy.normaliser.update(numbers(50, 5, seed=1) * 3 + 1, torch.ones(50, dtype=torch.bool))
    policy = policy.to(dtype)
    fast = policy.fast()
    assert fast is not None
    atol = 1e-6 if dtype == torch.float32 else 1e-12
    for count in (1, 3, 200):
        obs, level = observed(policy, count, 3).to(dtype), torch.linspace(0.1, 0.9, count).to(dtype)
        rows = empty_batch(Tasks(torch.arange(count))).with_rows({"_obs": obs, "_exploration": level})
        dist = policy.next(rows)
        number = uniforms(torch.arange(count), 2, dist.width)
        out = fast(obs.numpy())
        assert out.dtype == fast.dtype
        step = fast.pick(out, fast.noise(number), level.numpy())
        expected = dist.sample(number).detach()
        close(torch.as_tensor(step), expected, 10 * atol)
        close(torch.as_tensor(fast.emit(step)), policy.emit(expected), 10 * atol)
        close(torch.as_tensor(fast.pick(out)), dist.mode().detach(), 10 * atol)
        again = policy.distribution_of(torch.as_tensor(out), level)
        close(again.log_prob(expected), dist.log_prob(expected), 100 * atol)


def test_only_small_networks_act_in_numpy() -> None:
    assert actor("gaussian", "gru").fast() is None
    assert actor("gaussian", "cnn").fast() is None


def test_a_snapshot_does_not_follow_the_policy() -> None:
    policy = actor()
    fast = policy.fast()
    assert fast is not None
    before = fast(np.ones((2, 5)))
    stirred(policy, 7)
    assert np.array_equal(fast(np.ones((2, 5))), before)


# -- statistics of observations -----------------------------------------------------------------------------------
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(0, 100))
def test_merged_statistics_are_those_of_all_observations(sizes: list[int], seed: int) -> None:
    norm = Normaliser(3)
    rows = [1e4 + 10 * numbers(size, 4, 3, seed=seed + k) for k, size in enumerate(sizes)]
    masks = [torch.rand(size, 4, generator=torch.Generator().manual_seed(seed)) < 0.6 for size in sizes]
    for row, mask in zip(rows, masks, strict=True):
        norm.update(row, mask)
    kept = torch.cat([row[mask] for row, mask in zip(rows, masks, strict=True)])
    assert int(norm.count) == len(kept)
    if len(kept):
        close(norm.mean, kept.mean(0), 1e-8)
        close(norm.variance, kept.var(0, correction=0), 1e-6)


def test_normalised_numbers() -> None:
    norm = Normaliser(2)
    close(norm(torch.tensor([[3.0, -20.0]])), [[3.0, -10.0]], 1e-7)
    norm.update(torch.tensor([[1.0, 4.0], [3.0, 4.0]]), torch.ones(2, dtype=torch.bool))
    close(norm(torch.tensor([[4.0, 5.0], [2.0, 3.0]])), [[2.0, 10.0], [0.0, -10.0]], 1e-6)
    assert norm.to(torch.float32).mean.dtype == torch.float64
    assert norm(torch.tensor([[4.0, 5.0]], dtype=torch.float32)).dtype == torch.float32


# -- folders ----------------------------------------------------------------------------------------------------
@every_head
@every_body
def test_saved_policies_come_back(head: str, body: str, tmp_path: Path) -> None:
    policy = actor(head, body, normalise="cnn" not in body)
    if policy.normaliser is not None:
        policy.observe(rollout(policy))
    for dtype in (torch.float64, torch.float32):
        policy = policy.to(dtype)
        save_control(policy, tmp_path / "policy")
        again = load_control(tmp_path / "policy")
        assert again.spec == policy.spec
        for (name, value), (other, loaded) in zip(policy.state_dict().items(), again.state_dict().items(), strict=True):
            assert name == other
            assert value.dtype == loaded.dtype
            assert torch.equal(value, loaded)
    batch = rollout(again)
    close(again.score(batch).logp, policy.score(batch).logp)


def test_infinite_bounds_and_other_options_survive(tmp_path: Path) -> None:
    half = spaces.Box(np.array([-np.inf, 0.0]), np.array([np.inf, np.inf]), dtype=np.float64)
    body = Recurrent(CNN(((4, 3, 1),), 8, channels_last=True), 5)
    policy = new_actor(PIXELS, half, head=GaussianHead(-0.5), body=body, critic=MLP((3,), "silu", layer_norm=True))
    save_control(policy, tmp_path)
    assert load_control(tmp_path).spec == policy.spec
    json.loads((tmp_path / "policy.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def _edited(**changes: Any) -> Any:
    """A spec with other values; "body.hidden" is a field inside, None removes."""

    def edit(folder: Path) -> None:
        path = folder / "policy.json"
        content = json.loads(path.read_text())
        for name, value in changes.items():
            *outer, last = name.split("__")
            place = content[outer[0]] if outer else content
            place[last] = value
            if value is None:
                del place[last]
        path.write_text(json.dumps(content))

    return edit


def _only_a_part(folder: Path) -> None:
    content = json.loads((folder / "policy.json").read_text())
    head = {name: content[name] for name in ("format", "version", "dtype")}
    (folder / "policy.json").write_text(json.dumps({**content["body"], **head}))


def _fewer_tensors(folder: Path) -> None:
    tensors = load_file(folder / "policy.safetensors")
    del tensors["out.bias"]
    save_file(tensors, folder / "policy.safetensors")


def _cut(folder: Path) -> None:
    weights = folder / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])


DAMAGE: dict[str, Any] = {
    "no spec": lambda folder: (folder / "policy.json").unlink(),
    "no weights": lambda folder: (folder / "policy.safetensors").unlink(),
    "no json": lambda folder: (folder / "policy.json").write_text("{"),
    "a list": lambda folder: (folder / "policy.json").write_text("[]"),
    "no text": lambda folder: (folder / "policy.json").write_bytes(b"\xff\xfe\x00"),
    "another kind": _edited(kind="os.system"),
    "only a part": _only_a_part,
    "another version": _edited(version=2),
    "another type": _edited(dtype="float8"),
    "a missing field": _edited(body__activation=None),
    "another field": _edited(trust=True),
    "a wrong activation": _edited(body__activation="eval"),
    "wrong types": _edited(body__hidden="many"),
    "other sizes": _edited(body__hidden=[8, 9]),
    "no tensors": lambda folder: (folder / "policy.safetensors").write_bytes(b"not tensors"),
    "half the tensors": _cut,
    "fewer tensors": _fewer_tensors,
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_folders_are_refused_by_name(what: str, tmp_path: Path) -> None:
    save_control(actor(), tmp_path)
    DAMAGE[what](tmp_path)
    with pytest.raises(PolicyFolderError, match="policy"):
        load_control(tmp_path)


def test_every_head_is_tried_above() -> None:
    assert {actor(head).head.name for head in SPACES} == set(HEADS)


def test_specs_are_values() -> None:
    spec = ControlSpec(observations_of(FLAT), actions_of(spaces.Discrete(3)), HEADS["categorical"]())
    assert spec.actions == Discrete(3)
    assert copy.deepcopy(spec) == spec
    assert hash(spec) == hash(copy.deepcopy(spec))
