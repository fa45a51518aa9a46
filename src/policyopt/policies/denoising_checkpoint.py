"""Denoising policies as data, and in a folder: `denoiser.json` says what they are made of, `denoiser.safetensors` holds
the weights. Opening them runs no code."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from policyopt.policies.chains import NoiseChain, diffusion, flow
from policyopt.policies.denoisers import Conditions, ImageDenoiser, PatchDenoiser, VectorDenoiser
from policyopt.policies.denoising import CONDITION, Denoiser, Guidance
from policyopt.policies.folders import BROKEN, Folder
from policyopt.policies.paths import cosine_betas
from policyopt.policies.prior import only_prior
from policyopt.policies.transitions import Averaged, Summed

DENSITIES = {"averaged": Averaged(), "summed": Summed()}


class DenoiserFolderError(ValueError):
    """A folder that can not be opened as a denoising policy; says what is wrong with it and the remedy."""


FOLDER = Folder("denoiser", "denoising policy", 1, DenoiserFolderError)


@dataclass(frozen=True)
class ChainSpec:
    """How samples are drawn. path: a rectified flow or a diffusion model. eta: noise of every step, 0 is deterministic.

    shift: of a flow's levels. times: training times of a diffusion model. density: how a step's log-density reduces
    over dimensions. guidance: scale of classifier-free guidance, 1 without it.
    """

    path: Literal["flow", "diffusion"] = "flow"
    steps: int = 16
    eta: float = 0.7
    shift: float = 1.0
    times: int = 100
    density: Literal["averaged", "summed"] = "averaged"
    guidance: float = 1.0

    @property
    def time_scale(self) -> float:
        """The largest time that the network is told."""
        return 1.0 if self.path == "flow" else float(self.times)

    def chain(self) -> NoiseChain:
        density = DENSITIES[self.density]
        if self.path == "flow":
            return flow(self.steps, self.eta, self.shift, density=density)
        return diffusion(self.steps, self.eta, cosine_betas(self.times), density=density)


@dataclass(frozen=True)
class DenoiserSpec:
    """A denoising policy as pure data. shape: (D,) of vectors or (C, H, W) of images. classes: ids it is conditioned
    on, 0 without conditions. learned_prior: the initial noise is learned and the network frozen."""

    shape: tuple[int, ...]
    body: Literal["mlp", "unet", "transformer"] = "mlp"
    width: int = 64
    depth: int = 3
    classes: int = 0
    chain: ChainSpec = ChainSpec()
    learned_prior: bool = False

    def make(self, seed: int = 0) -> Denoiser:
        """A policy of random weights, a function of the seed alone."""
        given: dict[str, Any] = {"conditions": Conditions(self.classes), "time_scale": self.chain.time_scale}
        given |= {"width": self.width, "seed": seed}
        if (self.body == "mlp") != (len(self.shape) == 1):
            raise ValueError(f"body {self.body!r} does not denoise samples of shape {self.shape}")
        if self.body == "mlp":
            network: Any = VectorDenoiser(self.shape[0], depth=self.depth, **given)
        elif self.body == "unet":
            network = ImageDenoiser(self.shape, **given)  # type: ignore[arg-type]
        else:
            network = PatchDenoiser(self.shape, depth=self.depth, **given)  # type: ignore[arg-type]
        chain, guidance = self.chain.chain(), Guidance(self.chain.guidance)
        if self.learned_prior:
            return only_prior(network, chain, guidance=guidance)
        return Denoiser(network, chain, CONDITION, guidance)


def save_denoiser(policy: Denoiser, spec: DenoiserSpec, folder: str | Path) -> None:
    """Write the policy that `spec` made; the folder is made. Both files are whole or as they were."""
    FOLDER.write(folder, dataclasses.asdict(spec), policy)


def load_denoiser(folder: str | Path, *, learned_prior: bool = False, **chain: Any) -> tuple[Denoiser, DenoiserSpec]:
    """The policy of a folder, sampled with other settings of its chain where they are given. learned_prior: its network
    is frozen behind an initial noise that is learned (from the usual one, if the folder has none)."""
    try:
        content, weights = FOLDER.read(folder)
        drawn = ChainSpec(**{**content.pop("chain"), **chain})
        spec = DenoiserSpec(tuple(content.pop("shape")), chain=drawn, **content)
        if learned_prior and not spec.learned_prior:
            spec = dataclasses.replace(spec, learned_prior=True)
            weights |= {f"prior.{name}": value for name, value in spec.make().prior.state_dict().items()}
        policy = spec.make()
        policy.load_state_dict(weights)
    except DenoiserFolderError:
        raise
    except BROKEN as error:
        raise FOLDER.refusal(folder, error) from error
    return policy, spec
