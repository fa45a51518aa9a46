"""Samples drawn by code, and rewards that can be computed: clouds of points in the plane, small images of shapes."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# -- points in the plane -------------------------------------------------------------------------------------------


def ring_centres(modes: int = 8, radius: float = 2.0) -> Tensor:
    """(modes, 2) centres on a circle."""
    angle = 2 * math.pi * torch.arange(modes) / modes
    return radius * torch.stack([angle.cos(), angle.sin()], 1)


def eight_gaussians(count: int, rng: torch.Generator, std: float = 0.15, radius: float = 2.0) -> tuple[Tensor, Tensor]:
    """Points (count, 2) of 8 Gaussians on a circle, and the mode (count,) of each."""
    mode = torch.randint(8, (count,), generator=rng)
    return ring_centres(8, radius)[mode] + std * torch.randn(count, 2, generator=rng), mode


def two_moons(count: int, rng: torch.Generator, std: float = 0.08) -> tuple[Tensor, Tensor]:
    """Points of two interleaved half circles, and which one each is of."""
    mode = torch.randint(2, (count,), generator=rng)
    angle = math.pi * torch.rand(count, generator=rng)
    upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], 1)
    lower = torch.stack([0.5 - angle.cos(), 0.25 - angle.sin()], 1)
    points = torch.where(mode[:, None] == 0, upper, lower)
    return 1.5 * points + std * torch.randn(count, 2, generator=rng), mode


def checkerboard(count: int, rng: torch.Generator, cells: int = 4) -> tuple[Tensor, Tensor]:
    """Points uniform on the black cells of a board over -2..2, and the cell of each."""
    row = torch.randint(cells, (count,), generator=rng)
    column = 2 * torch.randint(cells // 2, (count,), generator=rng) + row % 2
    corner = torch.stack([column, row], 1)
    points = (corner + torch.rand(count, 2, generator=rng)) * 4 / cells - 2
    return points, row * cells + column


def nearest_mode(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) index of the nearest centre, and the distance to it."""
    distance, mode = torch.cdist(points, centres.to(points)).min(1)
    return mode, distance


def near_mode(target: int, centres: Tensor, sharpness: float = 1.0) -> Callable[[Tensor, Tensor], Tensor]:
    """A reward field: exp(-sharpness * squared distance to one centre)."""

    def reward(points: Tensor, task: Tensor) -> Tensor:
        return (-sharpness * ((points - centres[target].to(points)) ** 2).sum(1)).exp()

    return reward


def on_mode(target: int, centres: Tensor, within: float = 0.5) -> Callable[[Tensor, Tensor], Tensor]:
    """A sparse reward: 1 for points within a distance of one centre."""

    def reward(points: Tensor, task: Tensor) -> Tensor:
        return ((points - centres[target].to(points)).norm(dim=1) < within).to(points.dtype)

    return reward


# -- images: (B, C, H, W) in -1..1, background -1 -------------------------------------------------------------------


def _disc(x: Tensor, y: Tensor, r: float) -> Tensor:
    return x**2 + y**2 <= r**2


def _square(x: Tensor, y: Tensor, r: float) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) <= 0.85 * r


def _cross(x: Tensor, y: Tensor, r: float) -> Tensor:
    return (torch.minimum(x.abs(), y.abs()) <= 0.3 * r) & (torch.maximum(x.abs(), y.abs()) <= r)


SHAPES: tuple[Callable[[Tensor, Tensor, float], Tensor], ...] = (_disc, _square, _cross)


def draw_shapes(count: int, side: int, rng: torch.Generator, channels: int = 3, most: int = 2) -> tuple[Tensor, Tensor]:
    """Images (count, channels, side, side) of 1 to `most` filled shapes of random colours, and the kind (count,) of
    the first: 0 disc, 1 square, 2 cross."""
    grid = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    images = -torch.ones(count, channels, side, side)
    kinds = torch.randint(len(SHAPES), (count, most), generator=rng)
    numbers = torch.randint(1, most + 1, (count,), generator=rng).tolist()
    for image, kind, number in zip(images, kinds.tolist(), numbers, strict=True):
        for shape in kind[:number]:
            place, size = torch.rand(2, generator=rng) * 0.6 + 0.2, float(torch.rand((), generator=rng)) * 0.15 + 0.15
            colour = torch.rand(channels, generator=rng) * 1.5 - 0.5
            inside = SHAPES[shape](x - place[0], y - place[1], size)
            image[:, inside] = colour[:, None]
    return images, kinds[:, 0]


def as_bytes(images: Tensor) -> Tensor:
    """-1..1 -> 0..255 (uint8), clamped."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def compressed_size(images: Tensor) -> Tensor:
    """(B,) kilobytes of each image's bytes after zlib: what DDPO's compressibility measures, without a codec."""
    raw = as_bytes(images).permute(0, 2, 3, 1).contiguous().cpu()
    sizes = [len(zlib.compress(image.numpy().tobytes(), 9)) for image in raw]
    return torch.tensor(sizes, dtype=images.dtype, device=images.device) / 1000


def jpeg_size(images: Tensor, quality: int = 95) -> Tensor:
    """(B,) kilobytes as JPEG (DDPO). ImportError without pillow: use `compressed_size`."""
    from PIL import Image

    sizes = []
    for image in as_bytes(images).permute(0, 2, 3, 1).contiguous().cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]).save(file, "JPEG", quality=quality)
        sizes.append(file.tell())
    return torch.tensor(sizes, dtype=images.dtype, device=images.device) / 1000


def colour_share(images: Tensor, colour: Sequence[float], within: float = 0.6) -> Tensor:
    """(B,) share of pixels within a distance of a colour (numbers in -1..1)."""
    wanted = torch.tensor(colour, dtype=images.dtype, device=images.device)[:, None, None]
    return ((images - wanted).norm(dim=1) < within).to(images.dtype).mean((1, 2))


def blobs(images: Tensor, above: float = -0.5) -> Tensor:
    """(B,) number of 4-connected regions brighter than a level in any channel."""
    bright = (images > above).any(1)
    size = bright[0].numel()
    label = torch.arange(1, size + 1, device=images.device).view(bright.shape[1:]).expand_as(bright) * bright
    while True:
        padded = torch.nn.functional.pad(label, (1, 1, 1, 1))
        around = (padded[:, 1:-1, :-2], padded[:, 1:-1, 2:], padded[:, :-2, 1:-1], padded[:, 2:, 1:-1])
        grown = torch.stack([label, *around]).max(0).values * bright
        if torch.equal(grown, label):
            break
        label = grown
    counts = [len(image.unique()) - int(bool((image == 0).any())) for image in label]
    return torch.tensor(counts, dtype=images.dtype, device=images.device)


def symmetry(images: Tensor) -> Tensor:
    """(B,) minus the mean absolute difference to the mirror image; 0 is symmetric."""
    return -(images - images.flip(-1)).abs().mean((1, 2, 3))


def of_images(
    measure: Callable[[Tensor], Tensor], shape: tuple[int, int, int], sign: float = 1.0
) -> Callable[[Tensor, Tensor], Tensor]:
    """A reward of flat latents from a measure of images; sign -1 pays for less of it."""

    def reward(latents: Tensor, task: Tensor) -> Tensor:
        return sign * measure(latents.unflatten(1, shape))

    return reward
