"""Bodies: networks from observations to features, as data that can be saved, and the modules made of them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from policyopt.compose import CompositionError

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "silu": F.silu}
GAIN = math.sqrt(2)  # of orthogonal hidden layers


@dataclass(frozen=True)
class MLP:
    """Fully connected layers over the flattened observation."""

    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    layer_norm: bool = False  # after every layer, before its activation

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise CompositionError(f"activation is one of {', '.join(ACTIVATIONS)}, not {self.activation!r}")
        if any(width < 1 for width in self.hidden):
            raise CompositionError(f"hidden widths are at least 1, not {self.hidden}")


@dataclass(frozen=True)
class CNN:
    """Convolutions (channels, kernel, stride) and one fully connected layer, all with relu.

    channels_last: whether images are (H, W, C); None: if the last dimension is not larger than the first. Images of
    bytes are divided by 255.
    """

    layers: tuple[tuple[int, int, int], ...] = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
    hidden: int = 512
    channels_last: bool | None = None


@dataclass(frozen=True)
class Recurrent:
    """A gated recurrent unit of `size` over what the encoder makes of every observation."""

    encoder: MLP | CNN = MLP((64,))
    size: int = 64


NATURE = CNN()  # Mnih et al. 2015
SMALL = CNN(((16, 3, 1),), hidden=128)  # for images of about 10 x 10 (MinAtar, arXiv 1903.03176)

Body = MLP | CNN | Recurrent


def orthogonal(layer: Any, gain: float, rng: torch.Generator) -> Any:
    """Orthogonal weights of that gain and zero biases; returns the layer."""
    nn.init.orthogonal_(layer.weight, gain, generator=rng)
    nn.init.zeros_(layer.bias)
    return layer


class Flat(nn.Module):
    """(..., *shape) -> (..., hidden[-1]) by fully connected layers."""

    def __init__(self, spec: MLP, inputs: int, rng: torch.Generator):
        super().__init__()
        widths = (inputs, *spec.hidden)
        self.layers = nn.ModuleList(orthogonal(nn.Linear(a, b), GAIN, rng) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in spec.hidden if spec.layer_norm)
        self.activation = spec.activation
        self.features = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        act = ACTIVATIONS[self.activation]
        for number, layer in enumerate(self.layers):
            x = layer(x)
            x = act(self.norms[number](x) if self.norms else x)
        return x


class Image(nn.Module):
    """(..., *shape) -> (..., hidden) by convolutions; leading axes are joined for them."""

    def __init__(self, spec: CNN, shape: tuple[int, ...], rng: torch.Generator):
        super().__init__()
        if len(shape) not in (2, 3):
            raise CompositionError(f"a CNN reads images of 2 or 3 dimensions, not observations of shape {shape}")
        shape = shape if len(shape) == 3 else (1, *shape)
        self.shape = shape
        self.last = shape[-1] <= shape[0] if spec.channels_last is None else spec.channels_last
        channels, height, width = (shape[2], shape[0], shape[1]) if self.last else shape
        convolutions = []
        for out, kernel, stride in spec.layers:
            convolutions.append(orthogonal(nn.Conv2d(channels, out, kernel, stride), GAIN, rng))
            channels, height, width = out, (height - kernel) // stride + 1, (width - kernel) // stride + 1
            if min(height, width) < 1:
                raise CompositionError(f"images of shape {shape} are too small for the convolutions {spec.layers}")
        self.convolutions = nn.ModuleList(convolutions)
        self.out = orthogonal(nn.Linear(channels * height * width, spec.hidden), GAIN, rng)
        self.features = spec.hidden

    def forward(self, x: Tensor) -> Tensor:
        """x (..., flat) of numbers in their final scale."""
        lead = x.shape[:-1]
        x = x.reshape(-1, *self.shape)
        x = x.movedim(-1, 1) if self.last else x
        for layer in self.convolutions:
            x = torch.relu(layer(x))
        return torch.relu(self.out(x.flatten(1))).reshape(*lead, self.features)


def encoder(spec: MLP | CNN, shape: tuple[int, ...], rng: torch.Generator) -> Flat | Image:
    """The module of a memoryless body; its input is (..., math.prod(shape))."""
    return Flat(spec, math.prod(shape), rng) if isinstance(spec, MLP) else Image(spec, shape, rng)


class Unrolled(nn.Module):
    """An encoder and a gated recurrent unit; `features` is the memory's size."""

    def __init__(self, spec: Recurrent, shape: tuple[int, ...], rng: torch.Generator):
        super().__init__()
        self.encoder = encoder(spec.encoder, shape, rng)
        self.cell = nn.GRU(self.encoder.features, spec.size, batch_first=True)
        self.features = spec.size
        for name, parameter in self.cell.named_parameters():
            if "weight" in name:
                for gate in parameter.data.chunk(3):
                    nn.init.orthogonal_(gate, 1.0, generator=rng)
            else:
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """x (B, T, flat), memory (B, H) before the first step -> (B, T, H) memory after reading each observation."""
        if x.shape[1] == 0:
            return x.new_zeros(len(x), 0, self.features)
        return self.cell(self.encoder(x), memory[None].contiguous())[0]
