"""The description of a model before it is built: plain values, no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgevit.schema.choices import CropMode, Interpolation

Origin = Literal["zoo", "bundled", "timm", "hf-hub", "local"]


@dataclass(frozen=True)
class Preprocessing:
    """The steps from a picture to the model's input, as in timm's evaluation transform.

    Attributes:
        size: (H, W) in pixels after cropping.
        crop_pct: side of the crop as a share of the resized side.
        crop_mode: ``center``: shorter side to ``size / crop_pct``, then a centre crop; ``squash``:
            both sides, ignoring the aspect; ``border``: longer side, padded.
        interpolation: the resize filter; antialiased as in Pillow.
        mean: per RGB channel, of pixels in 0..1.
        std: per RGB channel, of pixels in 0..1.
    """

    size: tuple[int, int]
    crop_pct: float = 0.875
    crop_mode: CropMode = "center"
    interpolation: Interpolation = "bicubic"
    antialias: bool = True
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelSpec:
    """A model that edgevit can build by name.

    Attributes:
        name: its name in edgevit.
        family: the architecture family.
        origin: where its architecture comes from.
        source: the name in that place, e.g. timm's architecture with its weight tag.
        parameters: how many, with the default head; 0 where it was not measured.
        macs: multiply-accumulates of one image, attention products included; 0 if not measured.
        preprocessing: the evaluation transform.
        num_classes: outputs of the published head; 0 where the published weights have no classifier.
        labels: what the outputs are: a set that has names (``imagenet-1k``, ``imagenet-12k``, ``imagenet-21k-goog``,
            ``imagenet-21k-miil``, ``imagenet-22k``, ``imagenet-22k-ms``, ``digits``), ``numbers`` for classes without
            names, ``embedding`` for a projection that is no classifier, ``none`` for no head.
        top1: published accuracy in percent, or None.
        top1_source: who published it.
        licence: of the published weights.
        paper: where the architecture was introduced.
        weights: where the published weights lie: ``hf-hub:OWNER/REPO``, a URL, or empty for none or a local folder.
    """

    name: str
    family: str
    origin: Origin
    source: str
    parameters: int
    macs: int
    preprocessing: Preprocessing
    num_classes: int
    labels: str
    top1: float | None
    top1_source: str
    licence: str
    paper: str
    weights: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary of plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> ModelSpec:
        """The inverse of `to_dict`."""
        given = dict(values["preprocessing"])
        for key in ("size", "mean", "std"):
            given[key] = tuple(given[key])
        return ModelSpec(**{**values, "preprocessing": Preprocessing(**given)})
