"""Diffusers folders as denoising policies: networks, schedulers as chains, low-rank adapters; and back into a folder.

Needs the extra `diffusion` (`pip install 'policyopt[diffusion]'`). Nothing is fetched: folders are local.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from policyopt.plain import from_json
from policyopt.policies.chains import (
    Ddim,
    FlowSde,
    NoiseChain,
    Prediction,
    PredictsNoise,
    PredictsSample,
    PredictsV,
    PredictsVelocity,
)
from policyopt.policies.denoisers import Conditions, seeded
from policyopt.policies.denoising import Denoiser, Guidance
from policyopt.policies.paths import RectifiedFlow, VariancePreserving

ADAPTER = "adapter"  # folder, inside a saved pipeline, of the low-rank adapters alone
PREDICTIONS: dict[str, Prediction] = {
    "epsilon": PredictsNoise(),
    "sample": PredictsSample(),
    "v_prediction": PredictsV(),
}


class PipelineError(ValueError):
    """A folder or scheduler that can not be a policy here; says why and the remedy."""


def diffusers() -> Any:
    """The library, imported when it is first needed: it takes seconds."""
    try:
        import diffusers
    except ImportError as error:
        raise PipelineError("diffusers is not installed: pip install 'policyopt[diffusion]'") from error
    return diffusers


# -- schedulers --------------------------------------------------------------------------------------------------------
def chain_of(scheduler: Any, steps: int, eta: float = 1.0, **options: Any) -> NoiseChain:
    """A scheduler's own steps as a chain of Gaussians, and its network times for training.

    DDIMScheduler: eta as in its `step`. DDPMScheduler: eta must be 1. FlowMatchEulerDiscreteScheduler: eta = 0 is its
    own step, above 0 the SDE with the same marginals. options: those of `NoiseChain`.
    """
    name = type(scheduler).__name__
    if name == "FlowMatchEulerDiscreteScheduler":
        return _flow_chain(scheduler, steps, eta, options)
    if name not in ("DDIMScheduler", "DDPMScheduler"):
        raise PipelineError(
            f"{name} has no Gaussian steps that are known here; convert it: DDIMScheduler.from_config(scheduler.config)"
        )
    config = scheduler.config
    if config.thresholding:
        raise PipelineError(
            f"{name} uses dynamic thresholding, which makes a step depend on the whole sample; turn it off"
        )
    if name == "DDPMScheduler" and (config.variance_type != "fixed_small" or eta != 1):
        raise PipelineError(
            f"DDPMScheduler steps are DDIM's with eta = 1 and variance_type 'fixed_small', got eta {eta} and "
            f"{config.variance_type!r}; convert it: DDIMScheduler.from_config(scheduler.config)"
        )
    last = 1.0 if name == "DDPMScheduler" or config.set_alpha_to_one else float(scheduler.alphas_cumprod[0])
    betas, kept = (tuple(numbers.double().tolist()) for numbers in (scheduler.betas, scheduler.alphas_cumprod))
    path = VariancePreserving(betas, steps, _times(scheduler, steps), last, kept)
    if config.clip_sample:
        options.setdefault("clip_clean", float(config.clip_sample_range))
    # DDIMScheduler leaves the predicted noise as it was when it clips the sample; DDPM's posterior mean does not.
    options.setdefault("keeps_noise", name == "DDIMScheduler")
    return NoiseChain(path, Ddim(eta), PREDICTIONS[config.prediction_type], **options)


def _times(scheduler: Any, steps: int) -> tuple[int, ...]:
    """The scheduler's K times; its steps must end where the next ones begin."""
    mine = copy.deepcopy(scheduler)
    mine.set_timesteps(steps)
    times = tuple(int(t) for t in mine.timesteps)
    stride = mine.config.num_train_timesteps // steps
    if any(now - stride != after for now, after in itertools.pairwise(times)) or times[-1] >= stride:
        raise PipelineError(
            f"{steps} steps with timestep_spacing={mine.config.timestep_spacing!r} are at times {times[:3]}..., but "
            f"the scheduler moves by {stride}, so its steps do not meet; take a number of steps that divides "
            f"{mine.config.num_train_timesteps}, and 'leading' or 'trailing'"
        )
    return times


def _flow_chain(scheduler: Any, steps: int, eta: float, options: dict[str, Any]) -> NoiseChain:
    config = scheduler.config
    for option in ("invert_sigmas", "stochastic_sampling", "use_dynamic_shifting"):
        if getattr(config, option):
            raise PipelineError(f"FlowMatchEulerDiscreteScheduler with {option} is not supported; set it to false")
    mine = copy.deepcopy(scheduler)
    mine.set_timesteps(steps)
    sigmas = tuple(mine.sigmas.double().tolist())
    path = RectifiedFlow(steps, time_scale=float(config.num_train_timesteps), sigmas=sigmas)
    return NoiseChain(path, FlowSde(eta), PredictsVelocity(), **options)


# -- networks ----------------------------------------------------------------------------------------------------------
def _by_class(model: nn.Module, images: Tensor, time: Tensor, condition: Tensor | None) -> Tensor:
    return model(images, time, class_labels=condition).sample


def _by_text(model: nn.Module, images: Tensor, time: Tensor, condition: Tensor | None) -> Tensor:
    return model(images, time, encoder_hidden_states=condition).sample


CALLS: dict[str, Callable[..., Tensor]] = {
    "UNet2DModel": _by_class,
    "DiTTransformer2DModel": _by_class,
    "UNet2DConditionModel": _by_text,
}
"""How a model is called with images (N, C, H, W), times (N,) and conditions: ids (N,), or embedded text (N, L, C)."""


class PipelineNetwork(nn.Module):
    """A diffusers model on flat latents. Always in evaluation mode: log-probabilities in a ratio must not be random."""

    def __init__(self, model: Any, unconditional: int | None = None):
        super().__init__()
        name, config = type(model).__name__, model.config
        if name not in CALLS:
            raise PipelineError(f"models of type {name} are not supported; these are: {', '.join(CALLS)}")
        if (config.out_channels or config.in_channels) != config.in_channels:
            raise PipelineError(f"{name} also predicts variances ({config.out_channels} channels); it must not")
        side = config.sample_size
        self.shape = (config.in_channels, *(side if isinstance(side, list | tuple) else (side, side)))
        self.dims = self.shape[0] * self.shape[1] * self.shape[2]
        self.conditions = _conditions(name, config, unconditional)
        self.model = model.eval()

    def train(self, mode: bool = True) -> PipelineNetwork:  # noqa: FBT001, FBT002 - the signature is torch's
        return super().train(False)

    def forward(self, latent: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        images = latent.unflatten(1, self.shape).to(next(self.model.parameters()).dtype)
        return CALLS[type(self.model).__name__](self.model, images, time, condition).flatten(1).to(latent.dtype)


def _conditions(name: str, config: Any, unconditional: int | None) -> Conditions:
    if name == "UNet2DConditionModel":
        return Conditions(features=config.cross_attention_dim)
    if name == "DiTTransformer2DModel":
        # Its own embedding has a row for "no class" behind the others.
        return Conditions(classes=config.num_embeds_ada_norm, unconditional=unconditional)
    return Conditions(classes=config.num_class_embeds or 0, unconditional=unconditional)


@dataclass(frozen=True)
class DenoiserLora:
    """Low-rank adapters (arXiv 2106.09685) on attention and convolutions: W + alpha / rank B A, B = 0 at first."""

    rank: int = 8
    alpha: int = 8
    target_modules: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2")
    seed: int = 0


@dataclass(frozen=True)
class Pipeline:
    """What a folder holds: the policy's network, the scheduler, the decoder of latents (None: latents are images), and
    what is needed to write the folder again."""

    network: PipelineNetwork
    scheduler: Any
    vae: Any
    index: dict[str, Any]
    part: str  # "unet" or "transformer"

    def policy(
        self, steps: int, eta: float = 1.0, guidance: float = 1.0, lora: DenoiserLora | None = None, **options: Any
    ) -> Denoiser:
        """The network sampled in `steps` steps, in the scheduler's own numbers. With lora only adapters are trained."""
        if lora is not None:
            add_adapters(self.network.model, lora)
        chain = chain_of(self.scheduler, steps, eta, **options)
        return Denoiser(self.network, chain, guidance=Guidance(guidance))

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, C, H, W) in about -1..1 of flat latents."""
        images = latents.unflatten(1, self.network.shape)
        if self.vae is None:
            return images
        config = self.vae.config
        with torch.no_grad():
            return self.vae.decode(images / config.scaling_factor + (config.get("shift_factor") or 0.0)).sample


def load_pipeline(folder: str | Path, unconditional: int | None = None) -> Pipeline:
    """A local diffusers folder (model_index.json with a unet or transformer, a scheduler, perhaps a vae).

    unconditional: the class that means "no class", for guidance. PipelineError: what is missing.
    """
    folder = Path(folder)
    file = folder / "model_index.json"
    if not file.is_file():
        raise PipelineError(
            f"{folder} has no model_index.json; save a whole pipeline: pipeline.save_pretrained(folder)"
        )
    try:
        index = dict(from_json(file.read_bytes()))
    except (TypeError, ValueError) as error:
        raise PipelineError(f"{file} can not be read: {error}") from error
    part = next((name for name in ("unet", "transformer") if index.get(name)), None)
    if part is None or not index.get("scheduler"):
        raise PipelineError(
            f"{folder} holds {sorted(k for k in index if k[:1] != '_')}; it needs a unet or transformer and a scheduler"
        )
    vae = _part(folder, index, "vae").eval().requires_grad_(False) if index.get("vae") else None
    network = PipelineNetwork(_part(folder, index, part), unconditional)
    return Pipeline(network, _part(folder, index, "scheduler"), vae, index, part)


def _part(folder: Path, index: Mapping[str, Any], name: str) -> Any:
    """A part of a pipeline, of a class of diffusers for parts of its kind: others could run code that lies in the
    folder. Weights are read from safetensors alone."""
    library = diffusers()
    base, how = (library.SchedulerMixin, {}) if name == "scheduler" else (library.ModelMixin, {"use_safetensors": True})
    try:
        kind = getattr(library, index[name][1])
        if not (isinstance(kind, type) and issubclass(kind, base)):
            raise TypeError(f"{kind!r} is no {base.__name__} of diffusers")
        return kind.from_pretrained(str(folder / name), local_files_only=True, **how)
    except Exception as error:
        # The library raises anything for files that are damaged.
        raise PipelineError(f"{folder}: its {name} can not be opened: {type(error).__name__}: {error}") from error


def save_pipeline(pipeline: Pipeline, policy: Denoiser, folder: str | Path) -> Path:
    """The policy's weights as a diffusers folder, adapters merged; those alone also beside it, in `adapter`."""
    folder = Path(folder)
    network: Any = policy.network
    whole = merged(network.model)
    whole.save_pretrained(folder / pipeline.part)
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    if pipeline.vae is not None:
        pipeline.vae.save_pretrained(folder / "vae")
    kept = {name: value for name, value in pipeline.index.items() if name[0] == "_" or (folder / name).is_dir()}
    (folder / "model_index.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    if hasattr(network.model, "peft_config"):
        _save_adapters(network.model, folder / ADAPTER)
    return folder


# -- adapters ----------------------------------------------------------------------------------------------------------
def add_adapters(model: nn.Module, lora: DenoiserLora) -> None:
    """Adapters inside a model; everything else is frozen. PipelineError: no layer has one of the names."""
    from peft import LoraConfig, inject_adapter_in_model

    names = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    if not any(name.endswith(f".{target}") for name in names for target in lora.target_modules):
        raise PipelineError(f"no layer ends in one of {lora.target_modules}; the first are {names[:6]}")
    model.requires_grad_(False)
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.target_modules))
    with seeded(lora.seed):
        inject_adapter_in_model(config, model)
    model.eval()


def load_adapters(model: nn.Module, folder: str | Path) -> None:
    """The adapters of a saved pipeline on the base model they were trained from."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    model.requires_grad_(False)
    inject_adapter_in_model(LoraConfig.from_pretrained(str(folder)), model)
    found: Any = set_peft_model_state_dict(model, load_file(str(Path(folder) / "adapter_model.safetensors")))
    if found.unexpected_keys:
        raise PipelineError(f"the adapters in {folder} are for another model: {found.unexpected_keys[:3]}")
    model.eval()


def _save_adapters(model: Any, folder: Path) -> None:
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous().cpu() for name, value in get_peft_model_state_dict(model).items()}
    save_file(weights, str(folder / "adapter_model.safetensors"), {"format": "pt"})
    next(iter(model.peft_config.values())).save_pretrained(str(folder))


def merged(model: Any) -> Any:
    """A copy with the adapters added to the weights they adapt, as an ordinary model of its class."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    whole = copy.deepcopy(model)
    layers = [(name, layer) for name, layer in whole.named_modules() if isinstance(layer, BaseTunerLayer)]
    for name, layer in layers:
        layer.merge()
        parent, _, last = name.rpartition(".")
        setattr(whole.get_submodule(parent), last, layer.get_base_layer())
    if layers:
        del whole.peft_config
    return whole
