"""The pictures that every artifact is judged on, and PyTorch's answers to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevit.data.images import as_input, resize_width_first, to_model_size
from edgevit.schema.manifest import InputInfo
from edgevit.schema.model import Preprocessing
from edgevit.testing import structured_images
from edgevit.verify.compare import difference

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image as Picture
    from torch import nn

Answering = Callable[["torch.Tensor"], "torch.Tensor"]
"""A module, or any function from normalised float32 [1, 3, H, W] to logits."""
_SHAPES = ((1.0, 1.0), (1.3, 1.0), (1.0, 1.7), (2.0, 2.0), (0.8, 1.1), (1.0, 1.0))
"""(height, width) of the probes as multiples of the model's input: smaller, larger, tall and wide, for crop and
resize."""
_SEED = 11
"""Seed of the first probe; the others follow it."""


@dataclass(frozen=True)
class Golden:
    """Pictures and PyTorch's answers to them.

    Attributes:
        pictures: [h, w, 3] uint8 RGB each, of various sizes.
        outputs: float32 [N, classes], of the model as it is exported.
        exact: of the float model, where what is exported is quantized.
        noise: what rounding alone does to the outputs, as a share of their range, by where it rounds: ``fp32``,
            ``fp16 values`` or ``fp16 weights``.
    """

    pictures: tuple[NDArray[np.uint8], ...]
    outputs: NDArray[np.float32]
    exact: NDArray[np.float32] | None = None
    noise: Mapping[str, float] = field(default_factory=dict)

    def inputs(self, rule: Preprocessing, source: InputInfo) -> NDArray[Any]:
        """The exact inputs of the pictures for a model with that input."""
        from PIL import Image

        return make_inputs([Image.fromarray(picture) for picture in self.pictures], rule, source)


def probe_pictures(size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Structured pictures around a model's input size, not all of them square."""
    return [
        structured_images(1, (max(8, round(size[0] * tall)), max(8, round(size[1] * wide))), _SEED + index)[0]
        for index, (tall, wide) in enumerate(_SHAPES)
    ]


def distinct(pictures: Iterable[Picture]) -> list[Picture]:
    """The pictures without those that equal an earlier one, which nothing could tell apart from it."""
    kept: dict[tuple[tuple[int, int], bytes], Picture] = {}
    for picture in pictures:
        kept.setdefault((picture.size, picture.convert("RGB").tobytes()), picture)
    return list(kept.values())


def make_inputs(pictures: list[Picture], rule: Preprocessing, source: InputInfo) -> NDArray[Any]:
    """The exact inputs of these pictures for a model with the given input."""
    return as_input(np.stack([to_model_size(picture, rule) for picture in pictures]), rule, source)


def normalised(pictures: Sequence[NDArray[np.uint8]], rule: Preprocessing) -> torch.Tensor:
    """Pictures as the PyTorch model takes them: float32 [N, 3, H, W]."""
    import torch
    from PIL import Image

    transform = timm_transform(rule)
    return torch.stack([transform(Image.fromarray(picture)) for picture in pictures])


def timm_transform(rule: Preprocessing) -> Callable[[Picture], torch.Tensor]:
    """timm's own evaluation transform: a picture to the normalised float32 [3, H, W].

    Sizes, crop and normalisation are timm's; the order of Pillow's two passes is the input contract's.
    """
    from PIL import Image

    from edgevit.models.torchvision_fix import fix_torchvision_import

    class WidthFirst(Image.Image):
        def resize(self, size: Any, resample: Any = None, *_: Any) -> Image.Image:
            return resize_width_first(self.crop(), size, resample)

    fix_torchvision_import()
    from timm.data import create_transform

    transform = create_transform(
        (3, *rule.size),
        is_training=False,
        interpolation=rule.interpolation,
        mean=rule.mean,
        std=rule.std,
        crop_pct=rule.crop_pct,
        crop_mode=rule.crop_mode,
    )

    def apply(picture: Picture) -> torch.Tensor:
        ordered = picture.copy()
        ordered.__class__ = WidthFirst
        return transform(ordered)

    return apply


def reference_outputs(
    module: Answering, pictures: list[Picture], rule: Preprocessing, *, probabilities: bool
) -> NDArray[np.float32]:
    """PyTorch's answers, through timm's own evaluation transform.

    The transform is not edgevit's, so that an error in edgevit's preprocessing shows as an error
    of the artifact.

    Returns:
        float32 [N, classes]; float64 of a module that answers in float64.
    """
    import torch

    transform = timm_transform(rule)
    with torch.no_grad():
        logits = torch.cat([module(transform(picture)[None]) for picture in pictures])
        if logits.dtype != torch.float64:
            logits = logits.float()
        return (torch.softmax(logits, -1) if probabilities else logits).numpy()


def make_golden(
    module: nn.Module,
    rule: Preprocessing,
    *,
    probabilities: bool,
    extra: list[Picture] | None = None,
    quantized: Answering | None = None,
    rounded: Mapping[str, Answering] | None = None,
) -> Golden:
    """The golden vectors of one model, or of its quantized form: the structured probes and any real pictures given.

    Args:
        module: the float model.
        rule: how pictures become its input.
        probabilities: whether softmax is applied.
        extra: real pictures beside the probes.
        quantized: the model as a recipe quantizes it.
        rounded: forms of the float model that differ by rounding alone, see `Golden.noise`.
    """
    from PIL import Image

    probes = [Image.fromarray(array) for array in probe_pictures(rule.size)]
    pictures = distinct([*probes, *(picture.convert("RGB") for picture in extra or ())])
    arrays = [np.asarray(picture) for picture in pictures]
    exact = reference_outputs(module, pictures, rule, probabilities=probabilities)
    if quantized is not None:
        return Golden(tuple(arrays), reference_outputs(quantized, pictures, rule, probabilities=probabilities), exact)
    noise = measured_noise(exact, rounded or {}, pictures, rule, probabilities=probabilities)
    return Golden(tuple(arrays), exact, noise=noise)


def measured_noise(
    reference: NDArray[np.float32],
    rounded: Mapping[str, Answering],
    pictures: list[Picture],
    rule: Preprocessing,
    *,
    probabilities: bool,
) -> dict[str, float]:
    """The rounding noise of a model's outputs, as a share of their range, by name of the rounded form.

    Args:
        reference: [N, classes] of the model in float32.
        rounded: see `edgevit.graph.noise.rounded_forms`.
        pictures: that the reference answered to.
        rule: how they become the input.
        probabilities: whether softmax is applied.

    Returns:
        One share a form; a form whose answers are not finite is left out.
    """
    kind, found = "probabilities" if probabilities else "logits", {}
    for name, form in rounded.items():
        answers = reference_outputs(form, pictures, rule, probabilities=probabilities)
        found[name] = difference(reference, answers, kind=kind, precision=name.partition(" ")[0])
    return {name: noise for name, noise in found.items() if np.isfinite(noise)}
