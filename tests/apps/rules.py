"""The input contract on many rules and sizes: what Python makes of a picture, for the other languages to make too."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgevit.data.images import as_input, to_model_size
from edgevit.schema.manifest import InputInfo
from edgevit.schema.model import Preprocessing

_SIZES = ((64, 64), (96, 64), (64, 97), (17, 130), (33, 31), (5, 5), (301, 207), (224, 224), (1, 9))
_GOALS = ((32, 32), (40, 56), (64, 64))
_CROPS = (1.0, 0.95, 0.875, 0.5)
_INPUTS: tuple[dict[str, Any], ...] = (
    {"kind": "image", "layout": "NHWC", "dtype": "uint8", "values": "0..255"},
    {"kind": "image", "layout": "NCHW", "dtype": "float32", "values": "0..255"},
    {"kind": "tensor", "layout": "NCHW", "dtype": "float32", "values": "normalised"},
)


@dataclass(frozen=True)
class Case:
    """A picture, a rule, an input."""

    pixels: np.ndarray[Any, Any]
    rule: Preprocessing
    source: InputInfo

    def document(self) -> dict[str, Any]:
        """What an app reads of a manifest, and the size of the picture."""
        rule = {
            name: getattr(self.rule, name) for name in ("size", "crop_pct", "crop_mode", "interpolation", "mean", "std")
        }
        height, width = self.pixels.shape[:2]
        return {"width": width, "height": height, "rule": rule, "input": self.source.model_dump(mode="json")}

    def expected(self) -> bytes:
        """The exact input."""
        return as_input(to_model_size(Image.fromarray(self.pixels), self.rule)[None], self.rule, self.source).tobytes()


def cases() -> list[Case]:
    """All of them; each combination of mode and filter, sizes and crops in turns."""
    rng, found = np.random.default_rng(5), []
    turns = zip(
        itertools.product(("center", "squash", "border"), ("bicubic", "bilinear", "nearest", "lanczos"), _SIZES),
        itertools.cycle(itertools.product(_GOALS, _CROPS, _INPUTS)),
    )
    for (mode, filter_, (height, width)), (goal, crop, source) in turns:
        rule = Preprocessing(goal, crop, mode, filter_)  # type: ignore[arg-type]
        shape = (1, *goal, 3) if source["layout"] == "NHWC" else (1, 3, *goal)
        info = InputInfo(name="image", shape=shape, **source)
        found.append(Case(rng.integers(0, 256, (height, width, 3), np.uint8), rule, info))
    return found


def write_cases(folder: Path) -> list[Case]:
    """``cases.json``, and by number ``N.rgb`` (the picture) and ``N.bin`` (the exact input)."""
    folder.mkdir()
    found = cases()
    for number, case in enumerate(found):
        (folder / f"{number}.rgb").write_bytes(case.pixels.tobytes())
        (folder / f"{number}.bin").write_bytes(case.expected())
    (folder / "cases.json").write_text(json.dumps([case.document() for case in found]))
    return found
