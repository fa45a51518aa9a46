"""Denoising policies from nothing, from a run's folder or from a diffusers folder; and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from policyopt.policies.denoisers import Conditions
from policyopt.policies.denoising import Denoiser, LearnedPrior
from policyopt.policies.denoising_checkpoint import (
    DENSITIES,
    ChainSpec,
    DenoiserSpec,
    load_denoiser,
    save_denoiser,
)
from policyopt.policies.pipelines import DenoiserLora, Pipeline, load_pipeline, save_pipeline
from policyopt.recipe.base import RecipeError
from policyopt.recipe.denoising.sections import ChainSection, NewDenoiser, PolicySection

INDEX = "model_index.json"  # of a diffusers folder

Decode = Callable[[Tensor], Tensor]
"""Latents (B, D) -> what people see: points (B, D), or images (B, C, H, W)."""


@dataclass(frozen=True)
class Made:
    """A policy, the shape of its samples (of its latents, where it decodes them), and how it is saved."""

    policy: Denoiser
    shape: tuple[int, ...]
    decode: Decode
    save: Callable[[Path], None]
    piped: bool = False

    @property
    def learned_prior(self) -> bool:
        return isinstance(self.policy.prior, LearnedPrior)

    @property
    def conditions(self) -> Conditions:
        return self.policy.network.conditions


def is_pipeline(model: str) -> bool:
    return (Path(model) / INDEX).is_file()


def open_policy(section: PolicySection, seed: int) -> Made:
    """The policy of a folder, sampled as the section says."""
    assert section.model is not None
    if is_pipeline(section.model):
        return _piped(section, section.model, seed)
    if section.lora is not None or section.unconditional is not None:
        raise RecipeError(
            f"policy.lora and policy.unconditional are for diffusers folders; {section.model} has no {INDEX}"
        )
    prior = section.trains == "prior"
    return _own(*load_denoiser(section.model, learned_prior=prior, **section.chain.model_dump(exclude_unset=True)))


def new_policy(new: NewDenoiser, chain: ChainSection, shape: tuple[int, ...], classes: int, seed: int) -> Made:
    """A policy of random weights for samples of a shape."""
    body = ("mlp" if len(shape) == 1 else "unet") if new.body == "auto" else new.body
    spec = DenoiserSpec(shape, body, new.width, new.depth, classes, ChainSpec(**chain.model_dump(exclude_unset=True)))
    try:
        return _own(spec.make(seed), spec)
    except ValueError as error:
        raise RecipeError(f"policy.denoising: {error}") from error


def _own(policy: Denoiser, spec: DenoiserSpec) -> Made:
    def decode(latents: Tensor) -> Tensor:
        return latents.unflatten(1, spec.shape)

    return Made(policy, spec.shape, decode, lambda folder: save_denoiser(policy, spec, folder))


def _piped(section: PolicySection, model: str, seed: int) -> Made:
    scheduled = sorted(section.chain.model_fields_set & {"path", "shift", "times"})
    if section.trains != "network":
        raise RecipeError("policy.trains=prior is not offered for diffusers folders, which have no place for a prior")
    if scheduled:
        raise RecipeError(f"policy.chain: {scheduled} are the scheduler's of {model}; remove them")
    pipeline: Pipeline = load_pipeline(model, section.unconditional)
    lora = None if section.lora is None else DenoiserLora(**section.lora.model_dump(), seed=seed)
    chain = section.chain
    options: dict[str, Any] = {"density": DENSITIES[chain.density]}
    policy = pipeline.policy(chain.steps, chain.eta, chain.guidance, lora, **options)
    shape = tuple(pipeline.network.shape)

    def save(folder: Path) -> None:
        save_pipeline(pipeline, policy, folder)

    def decode(latents: Tensor) -> Tensor:
        if pipeline.vae is not None:
            pipeline.vae.to(latents.device)
        with torch.no_grad():
            return pipeline.decode(latents)

    return Made(policy, shape, decode, save, piped=True)
