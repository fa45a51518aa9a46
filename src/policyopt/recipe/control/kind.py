"""Agents: networks and environments, returns of held-out episodes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from policyopt.compose import Critic, Method, QCritic, frozen
from policyopt.engines.choose import engine_for
from policyopt.engines.control import episodes
from policyopt.evaluation.returns import returns
from policyopt.ops.random import derive, generator, new_keys
from policyopt.policies.bodies import CNN, MLP, NATURE, SMALL, Body, Recurrent
from policyopt.policies.control import Actor, new_actor
from policyopt.policies.control_checkpoint import FOLDER, load_control, save_control
from policyopt.policies.head import Head
from policyopt.policies.heads import head_for
from policyopt.policies.spaces import actions_of, observations_of
from policyopt.recipe.base import RecipeError
from policyopt.recipe.control.sections import (
    ControlRecipe,
    EvaluationSection,
    NewAgent,
    PolicySection,
    RecordedSection,
    TasksSection,
)
from policyopt.recipe.kinds import EVALUATION_SEED, Asked, Evaluation, RecordedSubject, choose_device
from policyopt.report.pictures import picture
from policyopt.report.rollouts import rounded
from policyopt.types import Batch
from policyopt.update.normalise import UpdateNormaliser
from policyopt.worlds.environments import EnvironmentFailedError
from policyopt.worlds.filming import Filmed, draw_off_screen, remedy
from policyopt.worlds.gymnasium import EnvironmentWorld
from policyopt.worlds.minari_files import read_minari
from policyopt.worlds.recordings import Episode, Recording, episodes_of
from policyopt.worlds.segments import ComparedSegments, read_segments


@dataclass
class ControlSubject(RecordedSubject):
    """An agent and its environments."""

    models: Mapping[str, nn.Module]
    worlds: Sequence[EnvironmentWorld]
    data: Sequence[Recording | ComparedSegments | None]  # of each world
    engine: Any
    held_out: EnvironmentWorld
    evaluation: EvaluationSection | None
    film: Callable[[], Mapping[str, Any]] | None = None

    lacking = (
        "data, but the tasks are an environment alone; give tasks.minari, tasks.recorded or tasks.segments, or use a "
        "method that acts, such as ppo"
    )
    pairs = (ComparedSegments,)
    want = '; give tasks.segments, a JSONL file of {"chosen": {"observations", "actions"}, "rejected": ...}'

    def adapt(self, method: Method) -> Method:
        """Statistics of observations belong to the policy, not to the method: they follow what it sees."""
        if self.policy.normaliser is None:
            return method
        critics = tuple(name for name, spec in method.models.items() if isinstance(spec, CRITICS))
        return replace(method, after=(*method.after, UpdateNormaliser(also=critics)))

    def measure(self) -> Evaluation | None:
        if self.evaluation is None:
            return None
        return measured(self.policy, self.held_out, self.evaluation.episodes)

    @property
    def measured(self) -> Sequence[str]:
        return () if self.evaluation is None else ("return_greedy", "return_sampled")

    def save(self, folder: Path) -> None:
        save_control(self.policy, folder)

    def shown(self, rows: Batch, steps: int, world: Any) -> Sequence[Mapping[str, Any]]:
        """What was seen and done at every step, and the return of the episodes that ended here."""
        found = []
        for row, valid in enumerate(rows.valid):
            at = valid.nonzero()[:, 0][:steps]
            seen = rows.step["_obs"][row, at]
            said = {
                "observations": rounded(seen.reshape(len(at), -1)[:, :SHOWN_NUMBERS]),
                "actions": rounded(self.policy.emit(rows.step["_action"][row, at])),
            }
            if "episode_return" in rows.row and int(rows.row["episode_length"][row]) > 0:
                said["return"] = rounded(rows.row["episode_return"][row])
            found.append(said)
        return found


log = logging.getLogger("policyopt")

RECORDING_SEED = 20_000_003  # of recorded episodes: they are a data set, the same in every run
SHOWN_NUMBERS = 8  # of an observation
CRITICS = (Critic, QCritic)


def measured(policy: Actor, world: EnvironmentWorld, episodes: int) -> Evaluation:
    """Return on held-out episodes. They are a function of the seed here, so seeds and methods are compared on the same
    ones; training episodes have seeds from streams of their own."""
    found = returns(policy, world, EVALUATION_SEED, episodes)
    return Evaluation(f"{world.name}: {episodes} held-out episodes", found.summary())


def filmed(policy: Actor, section: TasksSection, count: int) -> Mapping[str, Any]:
    """The first held-out episodes under the most likely actions, step by step."""
    plain = make_world(section, EVALUATION_SEED)
    env = plain.build()
    if "rgb_array" in env.metadata.get("render_modes", ()):
        draw_off_screen()
        try:
            drawn = section.model_copy(update={"options": {**section.options, "render_mode": "rgb_array"}})
            return _film(policy, make_world(drawn, EVALUATION_SEED), count)
        except Exception as error:  # noqa: BLE001 - drawing needs packages and drivers of every sort; results do not
            why = error.__cause__ if isinstance(error, EnvironmentFailedError) else error
            log.warning(
                "%s can not be drawn here (%s: %s); its episodes are kept without frames. %s",
                section.gymnasium,
                type(why).__name__,
                why,
                remedy(env),
            )
    return _film(policy, plain, count)


def _film(policy: Actor, plain: EnvironmentWorld, count: int) -> Mapping[str, Any]:
    made: list[Filmed] = []

    def build() -> Filmed:
        made.append(Filmed(plain.build()))
        return made[-1]

    world = EnvironmentWorld(build, name=plain.name).acted_by(policy)
    episodes(policy, world, count, EVALUATION_SEED, greedy=True, parallel=count)
    return {"task": plain.name, "episodes": [_told(film) for film in made]}


def _told(film: Filmed) -> dict[str, Any]:
    def numbers(values: Sequence[Any]) -> list[Any]:
        return rounded(torch.as_tensor(np.stack(values)).reshape(len(values), -1)[:, :SHOWN_NUMBERS])

    return {
        "return": sum(film.rewards),
        "length": len(film.rewards),
        "finish": film.ending,
        "observations": numbers(film.observations),
        "actions": numbers(film.actions),
        "rewards": rounded(torch.tensor(film.rewards, dtype=torch.float64)),
        "frames": [[step, picture(frame)] for step, frame in film.frames],
    }


def asked_episodes(recipe: Any | None, asked: Asked) -> tuple[TasksSection, int]:
    """The environment of a recipe, or the one that the user named, with the user's changes; and how many episodes."""
    if asked.samples is not None or "prompt" in asked.changes:
        raise RecipeError("--samples and --prompt have no effect for agents; give --tasks, a number of episodes")
    section = TasksSection(gymnasium=asked.task) if recipe is None else recipe.tasks
    section = type(section).model_validate({**section.model_dump(exclude_unset=True), **asked.changes})
    given = None if recipe is None else recipe.evaluation
    if asked.count == 1:
        raise RecipeError("one episode says nothing of how returns spread; give --tasks, 2 or more episodes")
    return section, asked.count or (given or EvaluationSection()).episodes


class ControlKind:
    """See `Kind`."""

    recipe = ControlRecipe

    def build(
        self, recipe: ControlRecipe, methods: Sequence[Method], tasks: Sequence[TasksSection], opened: ExitStack
    ) -> ControlSubject:
        device = choose_device(recipe.policy.device)
        worlds = [make_world(section, derive(recipe.seed, "tasks")) for section in tasks]
        held_out = make_world(recipe.tasks, EVALUATION_SEED)
        policy = make_policy(recipe.policy, held_out, recipe.seed).to(device)
        for world in (*worlds, held_out):
            opened.callback(world.close)
            check_spaces(policy, world).acted_by(policy)
        models = {name: frozen(load_control(path)).to(device) for name, path in recipe.models.items()}
        check_data(tasks, methods)
        data = [found and found.acted_by(policy) for found in map(recording, tasks)]
        engine = engine_for(policy, worlds[0])
        subject = ControlSubject({"policy": policy, **models}, worlds, data, engine, held_out, recipe.evaluation)
        if recipe.evaluation is not None and recipe.evaluation.film:
            subject.film = partial(filmed, policy, recipe.tasks, recipe.evaluation.film)
        return subject

    def evaluate(self, model: str, recipe: ControlRecipe | None, asked: Asked) -> Evaluation:
        section, episodes = asked_episodes(recipe, asked)
        policy = load_control(model)
        world = check_spaces(policy, make_world(section, EVALUATION_SEED)).acted_by(policy)
        return measured(policy, world, episodes)

    def owns(self, model: str) -> bool:
        return FOLDER.holds(model)


KIND = ControlKind()


def make_world(section: TasksSection, seed: int) -> EnvironmentWorld:
    atari = {True: {}, False: None}[section.atari] if isinstance(section.atari, bool) else section.atari
    return EnvironmentWorld.make(
        section.gymnasium,
        seed=seed,
        limit=section.limit,
        frame_stack=section.frame_stack,
        atari=atari,
        options=section.options,
        reward_clip=section.reward_clip,
        processes=section.processes,
    )


def recording(section: TasksSection) -> Recording | ComparedSegments | None:
    """The recorded data of some tasks."""
    if section.segments is not None:
        return read_segments(section.segments)
    if section.minari is not None:
        return read_minari(section.minari, section.unit)
    if section.recorded is None:
        return None
    world, given = make_world(section, RECORDING_SEED), section.recorded
    reliable = round(given.episodes * given.reliability) if given.policy is not None else 0
    episodes = [] if given.policy is None else _recorded(load_control(given.policy), world, range(reliable), given)
    if reliable < given.episodes:
        untrained = new_actor(world.observation_space, world.action_space)
        episodes += _recorded(untrained, world, range(reliable, given.episodes), given)
    return Recording(episodes, section.unit, f"episodes of {world.name}")


def _recorded(actor: Actor, world: EnvironmentWorld, ids: range, given: RecordedSection) -> list[Episode]:
    """Whole episodes of a policy, one per task."""
    if not ids:
        return []
    check_spaces(actor, world).acted_by(actor)
    rows, heat = world.start(world.tasks(torch.tensor(ids))), 0.0 if given.greedy else 1.0
    rows = rows.with_rows({"temperature": torch.full((len(ids),), heat)})
    keys = torch.cat([new_keys(1, generator(RECORDING_SEED, "recorded", task)) for task in ids])
    with torch.no_grad():
        return episodes_of(engine_for(actor, world)(actor, world, rows, keys, heat, 0), actor.emit)


def check_data(tasks: Sequence[TasksSection], methods: Sequence[Method]) -> None:
    """What no stage uses is a mistake."""
    names = ("minari", "recorded", "segments")
    given = [name for name in names if any(getattr(section, name) is not None for section in tasks)]
    if given and not any(method.sampling.data for method in methods):
        raise RecipeError(
            f"tasks.{given[0]} has no effect: no stage learns from recorded data; remove it or add a stage with a "
            "method that does, such as sft"
        )


def make_policy(section: PolicySection, world: EnvironmentWorld, seed: int) -> Actor:
    if section.model is not None:
        return load_control(section.model)
    new = section.control
    assert new is not None
    critic = None if new.critic is None else MLP(new.critic.hidden, new.critic.activation, new.critic.layer_norm)
    head = _head(new, world)
    policy = new_actor(
        world.observation_space,
        world.action_space,
        head=head,
        body=_body(new, head, world),
        critic=critic,
        normalise=new.normalise,
        seed=derive(seed, "policy") >> 32,
    )
    return policy.to(getattr(torch, section.dtype))


def _head(new: NewAgent, world: EnvironmentWorld) -> Head:
    head: Any = head_for(actions_of(world.action_space), new.head)
    known = {field.name for field in fields(head)}
    if unknown := sorted(set(new.head_options) - known):
        raise RecipeError(f"policy.control.head_options: {new.head} has no option {unknown}; it has {sorted(known)}")
    return replace(head, **new.head_options)


def _body(new: NewAgent, head: Head, world: EnvironmentWorld) -> Body:
    image = observations_of(world.observation_space).image
    kind = ("cnn" if image else "mlp") if new.body == "auto" else new.body
    if kind == "mlp":
        plain = head.body
        body: MLP | CNN = MLP(
            plain.hidden if new.hidden is None else new.hidden, new.activation or plain.activation, new.layer_norm
        )
    else:
        body = NATURE if kind == "cnn" else SMALL
    return body if new.memory is None else Recurrent(body, new.memory)


def check_spaces(policy: Actor, world: EnvironmentWorld) -> EnvironmentWorld:
    """RecipeError: the policy sees or does something else than the environment asks."""
    seen, done = observations_of(world.observation_space), actions_of(world.action_space)
    if (policy.spec.observations, policy.spec.actions) != (seen, done):
        raise RecipeError(
            f"the policy sees {policy.spec.observations} and does {policy.spec.actions}; {world.name} shows {seen} and "
            f"takes {done}. Use the environment it was made for, or a new policy (policy.control)"
        )
    return world
