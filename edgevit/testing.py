"""Live random weights and structured images, for edgevit's tests and for yours.

A freshly initialised vision transformer is a poor test subject: zero-initialised norms and layer
scales silence whole branches, converters fold the silent branches away, and every comparison of
the nearly constant outputs passes. `wake` gives every parameter a live value; `structured_images`
gives inputs that move the outputs, which `torch.randn` barely does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import nn

Image = NDArray[np.uint8]

_LEAST_SPREAD = 0.25
"""Smallest standard deviation of a channel, as a share of its mean."""
_HEADROOM = 9.0
"""Running variance over the measured one: values are normalised to a third of their unit range."""


def structured_images(count: int, size: tuple[int, int], seed: int = 0) -> list[Image]:
    """Draw images with gradients, edges, discs, stripes and texture.

    Args:
        count: how many.
        size: (height, width) in pixels.
        seed: the same seed gives the same images.

    Returns:
        ``count`` arrays of [height, width, 3] uint8 RGB.
    """
    return [_structured_image(size, np.random.default_rng([seed, index])) for index in range(count)]


def _structured_image(size: tuple[int, int], rng: np.random.Generator) -> Image:
    height, width = size
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    direction = rng.normal(size=(2, 3))
    canvas = rng.uniform(0.1, 0.9, 3) + 0.4 * (y[..., None] * direction[0] + x[..., None] * direction[1])
    for _ in range(int(rng.integers(3, 7))):
        colour = rng.uniform(0, 1, 3)
        cy, cx, radius = *rng.uniform(0, 1, 2), rng.uniform(0.05, 0.35)
        kind = rng.integers(3)
        if kind == 0:
            mask = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        elif kind == 1:
            mask = (abs(y - cy) < radius) & (abs(x - cx) < radius * rng.uniform(0.3, 1.5))
        else:
            angle, frequency = rng.uniform(0, np.pi), rng.uniform(4, 20)
            wave = np.sin(2 * np.pi * frequency * (np.cos(angle) * x + np.sin(angle) * y))
            mask = (wave > 0) & (abs(x - cx) < 2 * radius)
        canvas = np.where(mask[..., None], colour, canvas)
    canvas = canvas + rng.normal(0, 0.02, canvas.shape)
    return (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)


def wake(model: nn.Module, size: tuple[int, int], seed: int = 0) -> nn.Module:
    """Give every parameter and running statistic a live value, in place.

    Gains are drawn around 1, layer scales around 0.2, biases around 0, weights with variance
    1/fan-in; BatchNorm statistics come from a pass over structured images.

    Args:
        model: any classifier over float32 [N, 3, H, W].
        size: (H, W) of the calibration images.
        seed: the same seed gives the same weights.

    Returns:
        The same model, in eval mode.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        _draw_parameters(model, generator)
        _calibrate_batch_norms(model, size, seed)
    for module in model.modules():
        if isinstance(getattr(module, "attention_bias_cache", None), dict):
            module.attention_bias_cache = {}  # type: ignore[assignment]
    return model.eval()


def _draw_parameters(model: nn.Module, generator: torch.Generator) -> None:
    import torch
    from torch import nn

    dense = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    drawn: set[int] = set()

    def draw(parameter: torch.Tensor, centre: float, spread: float) -> None:
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        parameter.copy_(noise * spread + centre)
        drawn.add(id(parameter))

    for module in model.modules():
        own = dict(module.named_parameters(recurse=False))
        if isinstance(module, dense):
            draw(module.weight, 0.0, module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                draw(module.bias, 0.0, 0.1)
        elif "Norm" in type(module).__name__ or "running_mean" in module._buffers:
            for name, parameter in own.items():
                draw(parameter, 1.0 if name == "weight" else 0.0, 0.15 if name == "weight" else 0.1)
    for name, parameter in model.named_parameters():
        if id(parameter) not in drawn:
            draw(parameter, *_centre_and_spread(name, parameter))


def _centre_and_spread(name: str, parameter: torch.Tensor) -> tuple[float, float]:
    leaf = name.rsplit(".", 1)[-1].lower()
    if "temperature" in leaf:
        return 1.0, 0.1
    if "gamma" in leaf or "scale" in leaf or leaf.startswith("ls"):
        return 0.2, 0.04
    if parameter.dim() > 1 and "weight" in leaf:
        return 0.0, float(parameter.shape[-1]) ** -0.5
    return 0.0, 0.15


def _calibrate_batch_norms(model: nn.Module, size: tuple[int, int], seed: int) -> None:
    """Set running statistics layer by layer, each from what the calibrated layers before it give.

    Two things keep the network as well conditioned as a trained one. A variance far below the
    squared mean, which would turn rounding errors into differences, is kept above a share of it.
    And every variance is enlarged: other pictures spread further than the few seen here, and
    without headroom that excess grows from layer to layer until attention is all or nothing.
    """
    from torch import nn

    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    pixels = np.stack(structured_images(24, size, seed=seed + 1)).transpose(0, 3, 1, 2)
    model.eval()
    handles = [norm.register_forward_pre_hook(_set_statistics) for norm in norms]
    try:
        model(_as_batch(pixels))
    finally:
        for handle in handles:
            handle.remove()


def _as_batch(pixels: NDArray[np.uint8]) -> torch.Tensor:
    import torch

    return (torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255 - 0.45) / 0.23


def _set_statistics(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    import torch

    values = inputs[0]
    axes = [axis for axis in range(values.dim()) if axis != 1]
    variance, mean = torch.var_mean(values, axes)
    norm.running_mean.copy_(mean)  # type: ignore[operator]
    spread = torch.maximum(_HEADROOM * variance, (_LEAST_SPREAD * mean) ** 2)
    norm.running_var.copy_(spread.clamp_(min=1e-3))  # type: ignore[operator]
